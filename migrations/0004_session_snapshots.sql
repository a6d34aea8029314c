-- Encrypted copies of the sessions' stores, so that a lost disk costs nobody a scan.
--
-- A snapshot is written under a lease: whoever has lost it writes nothing any more. What changes
-- the snapshots of a company holds its lease row; companies are taken in the order of company_id,
-- as everywhere, so no calls deadlock, and a claim that follows sees every snapshot before it.
-- Payloads are decoded before the lock is taken: the renewal of a lease waits for it.

create table public.whatsapp_session_snapshots (
    company_id uuid not null,
    epoch bigint not null check (epoch >= 0),
    seq bigint not null check (seq >= 0),
    key_id text not null check (key_id <> ''),
    wrapped_key bytea not null check (octet_length(wrapped_key) between 1 and 1024),
    sha256 text not null check (sha256 ~ '^[0-9a-f]{64}$'),
    size_bytes integer not null check (size_bytes > 0),
    payload bytea check (octet_length(payload) = size_bytes and size_bytes <= 33554432),
    object_key text check (object_key <> ''),
    clean boolean not null default false,
    created_at timestamptz not null default clock_timestamp(),
    tombstoned_at timestamptz,
    primary key (company_id, epoch, seq),
    constraint whatsapp_session_snapshots_one_place check ((payload is null) <> (object_key is null))
);

-- What is encrypted does not compress.
alter table public.whatsapp_session_snapshots alter column payload set storage external;

comment on table public.whatsapp_session_snapshots is
    'Encrypted copies of the sessions'' stores, the newest three of each company. The keys that '
    'open them are never in the database.';
comment on column public.whatsapp_session_snapshots.epoch is 'The lease term it was taken under.';
comment on column public.whatsapp_session_snapshots.seq is 'Its number within the term.';
comment on column public.whatsapp_session_snapshots.key_id is
    'Which key encryption key wraps its data key.';
comment on column public.whatsapp_session_snapshots.wrapped_key is
    'Its data key, encrypted; the one thing that changes, when keys are rotated.';
comment on column public.whatsapp_session_snapshots.sha256 is 'Of the encrypted payload.';
comment on column public.whatsapp_session_snapshots.size_bytes is
    'Of the encrypted payload; at most 32 MiB when it lies in the database.';
comment on column public.whatsapp_session_snapshots.payload is
    'The encrypted store; null when it lies in S3.';
comment on column public.whatsapp_session_snapshots.object_key is
    'Where in S3 it lies; null when it lies here.';
comment on column public.whatsapp_session_snapshots.clean is
    'The client had stopped: the session cannot have changed since.';
comment on column public.whatsapp_session_snapshots.tombstoned_at is
    'Out of use since then, because the session was logged out; removed seven days later.';

alter table public.whatsapp_session_snapshots enable row level security;
revoke all on table public.whatsapp_session_snapshots
    from public, anon, authenticated, service_role;
grant select, insert, update, delete on table public.whatsapp_session_snapshots to service_role;

create function public.whatsapp_lock_lease_v1(p_company_id uuid) returns public.whatsapp_leases
language plpgsql
set search_path = ''
as $function$
declare
    v_lease public.whatsapp_leases;
begin
    select * into v_lease
    from public.whatsapp_leases as l
    where l.company_id = p_company_id
    for update;
    return v_lease;
end
$function$;

comment on function public.whatsapp_lock_lease_v1(uuid) is
    'Locks the lease row of a company until the transaction ends and returns it as it is then; '
    'nulls when the company was never claimed.';

create function public.whatsapp_prune_snapshots_v1(p_company_id uuid, p_keep integer) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    v_company_ids uuid[] := array[p_company_id];
    v_company_id uuid;
    v_keys jsonb;
    v_removed integer := 0;
    v_object_keys jsonb := '[]';
    v_count integer;
begin
    if p_keep is null or p_keep < 1 then
        raise exception using
            errcode = 'invalid_parameter_value', message = 'p_keep must be at least 1';
    end if;
    if p_company_id is null then
        v_company_ids := array(
            select s.company_id
            from public.whatsapp_session_snapshots as s
            where s.tombstoned_at is null
            group by s.company_id
            having count(*) > p_keep
            order by s.company_id
        );
    end if;
    foreach v_company_id in array v_company_ids loop
        perform public.whatsapp_lock_lease_v1(v_company_id);
        with gone as (
            delete from public.whatsapp_session_snapshots as s
            where s.company_id = v_company_id
                and s.tombstoned_at is null
                and (s.epoch, s.seq) < (
                    select kept.epoch, kept.seq
                    from public.whatsapp_session_snapshots as kept
                    where kept.company_id = v_company_id and kept.tombstoned_at is null
                    order by kept.epoch desc, kept.seq desc
                    offset p_keep - 1
                    limit 1
                )
            returning s.object_key
        )
        select count(*), coalesce(jsonb_agg(g.object_key) filter (where g.object_key <> ''), '[]')
        into v_count, v_keys
        from gone as g;
        v_removed := v_removed + v_count;
        v_object_keys := v_object_keys || v_keys;
    end loop;
    return jsonb_build_object('removed', v_removed, 'object_keys', v_object_keys);
end
$function$;

comment on function public.whatsapp_prune_snapshots_v1(uuid, integer) is
    'Removes all but the newest p_keep live snapshots of a company, or of each when it is null. '
    'Returns {removed, object_keys}: the objects in S3 that nothing points to any more.';

create function public.whatsapp_write_snapshot_v1(
    p_owner uuid,
    p_company_id uuid,
    p_epoch bigint,
    p_seq bigint,
    p_key_id text,
    p_wrapped_key text,
    p_sha256 text,
    p_size_bytes integer,
    p_clean boolean,
    p_payload text default null,
    p_object_key text default null,
    p_keep integer default 3
) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    v_wrapped_key constant bytea := decode(p_wrapped_key, 'base64');
    v_payload constant bytea := decode(p_payload, 'base64');
    v_lease public.whatsapp_leases;
    v_newest_epoch bigint;
    v_newest_seq bigint;
    v_outcome text := 'written';
begin
    if v_payload is not null and encode(sha256(v_payload), 'hex') is distinct from p_sha256 then
        raise exception using
            errcode = 'data_exception', message = 'the payload does not have this sha256';
    end if;

    v_lease := public.whatsapp_lock_lease_v1(p_company_id);
    -- Not coalesced: a null anywhere must read as fenced.
    if (v_lease.owner_id = p_owner
            and v_lease.epoch = p_epoch
            and v_lease.expires_at > clock_timestamp()) is not true then
        return jsonb_build_object('outcome', 'fenced', 'lease_epoch', v_lease.epoch);
    end if;

    select s.epoch, s.seq
    into v_newest_epoch, v_newest_seq
    from public.whatsapp_session_snapshots as s
    where s.company_id = p_company_id
    order by s.epoch desc, s.seq desc
    limit 1;

    if exists (
            select 1
            from public.whatsapp_session_snapshots as s
            where s.company_id = p_company_id
                and s.epoch = p_epoch and s.seq = p_seq and s.sha256 = p_sha256
        )
    then
        v_outcome := 'duplicate';
    elsif (p_epoch, p_seq) <= (v_newest_epoch, v_newest_seq) then
        return jsonb_build_object(
            'outcome', 'stale', 'newest_epoch', v_newest_epoch, 'newest_seq', v_newest_seq
        );
    else
        insert into public.whatsapp_session_snapshots
            (company_id, epoch, seq, key_id, wrapped_key, sha256, size_bytes, payload,
             object_key, clean)
        values
            (p_company_id, p_epoch, p_seq, p_key_id, v_wrapped_key, p_sha256, p_size_bytes,
             v_payload, p_object_key, coalesce(p_clean, false));
    end if;
    return public.whatsapp_prune_snapshots_v1(p_company_id, p_keep)
        || jsonb_build_object('outcome', v_outcome);
end
$function$;

comment on function public.whatsapp_write_snapshot_v1(
    uuid, uuid, bigint, bigint, text, text, text, integer, boolean, text, text, integer
) is
    'Keeps a snapshot, bytes as base64, under the live lease of p_owner and p_epoch, and removes '
    'all but the newest p_keep. Returns {outcome, ...}. written; duplicate: this very one is kept '
    'already (both with removed and object_keys, see whatsapp_prune_snapshots_v1); fenced: the '
    'lease is lost, nothing was done (lease_epoch); stale: a snapshot with this or a higher number '
    'exists, tombstoned ones included, nothing was done (newest_epoch, newest_seq).';

create function public.whatsapp_list_snapshots_v1(p_company_id uuid) returns table (
    company_id uuid,
    epoch bigint,
    seq bigint,
    key_id text,
    sha256 text,
    size_bytes integer,
    clean boolean,
    created_at timestamptz,
    object_key text
)
language sql stable
set search_path = ''
as $function$
    select s.company_id, s.epoch, s.seq, s.key_id, s.sha256, s.size_bytes, s.clean, s.created_at,
        s.object_key
    from public.whatsapp_session_snapshots as s
    where s.company_id = p_company_id and s.tombstoned_at is null
    order by s.epoch desc, s.seq desc;
$function$;

comment on function public.whatsapp_list_snapshots_v1(uuid) is
    'The live snapshots of a company, newest first, without their content.';

create function public.whatsapp_read_snapshot_v1(p_company_id uuid, p_epoch bigint, p_seq bigint)
returns jsonb
language sql stable
set search_path = ''
as $function$
    select jsonb_build_object(
        'company_id', s.company_id,
        'epoch', s.epoch,
        'seq', s.seq,
        'key_id', s.key_id,
        'sha256', s.sha256,
        'size_bytes', s.size_bytes,
        'clean', s.clean,
        'created_at', s.created_at,
        'object_key', s.object_key,
        'wrapped_key', encode(s.wrapped_key, 'base64'),
        'payload', encode(s.payload, 'base64')
    )
    from public.whatsapp_session_snapshots as s
    where s.company_id = p_company_id
        and s.epoch = p_epoch
        and s.seq = p_seq
        and s.tombstoned_at is null;
$function$;

comment on function public.whatsapp_read_snapshot_v1(uuid, bigint, bigint) is
    'A live snapshot with its content, bytes as base64 in lines of 76; null when there is none.';

create function public.whatsapp_snapshot_companies_v1() returns jsonb
language sql stable
set search_path = ''
as $function$
    select coalesce(jsonb_agg(jsonb_build_array(n.company_id, n.epoch, n.seq)), '[]')
    from (
        select distinct on (s.company_id) s.company_id, s.epoch, s.seq
        from public.whatsapp_session_snapshots as s
        where s.tombstoned_at is null
        order by s.company_id, s.epoch desc, s.seq desc
    ) as n;
$function$;

comment on function public.whatsapp_snapshot_companies_v1() is
    'The newest live snapshot of every company that has one, [[company_id, epoch, seq]]. One '
    'value, not rows: the API cuts off rows beyond its limit.';

create function public.whatsapp_tombstone_snapshots_v1(p_company_id uuid) returns integer
language plpgsql
set search_path = ''
as $function$
declare
    v_count integer;
begin
    perform public.whatsapp_lock_lease_v1(p_company_id);
    update public.whatsapp_session_snapshots as s
    set tombstoned_at = clock_timestamp()
    where s.company_id = p_company_id and s.tombstoned_at is null;
    get diagnostics v_count = row_count;
    return v_count;
end
$function$;

comment on function public.whatsapp_tombstone_snapshots_v1(uuid) is
    'Takes all snapshots of a company out of use; returns how many were in use.';

create function public.whatsapp_expire_snapshots_v1(
    p_older_than_seconds double precision default 604800
) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    v_answer jsonb;
begin
    if p_older_than_seconds is null or not (p_older_than_seconds >= 0) then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'p_older_than_seconds must be 0 or more';
    end if;
    with due as materialized (
        select s.company_id, s.epoch, s.seq
        from public.whatsapp_session_snapshots as s
        where s.tombstoned_at <= clock_timestamp() - make_interval(secs => p_older_than_seconds)
        order by s.company_id, s.epoch, s.seq
        for update skip locked
    ),
    gone as (
        delete from public.whatsapp_session_snapshots as s
        using due as d
        where s.company_id = d.company_id and s.epoch = d.epoch and s.seq = d.seq
        returning s.object_key
    )
    select jsonb_build_object(
        'removed', count(*),
        'object_keys', coalesce(jsonb_agg(g.object_key) filter (where g.object_key <> ''), '[]')
    )
    into v_answer
    from gone as g;
    return v_answer;
end
$function$;

comment on function public.whatsapp_expire_snapshots_v1(double precision) is
    'Removes what was tombstoned that long ago, seven days when not told. Returns {removed, '
    'object_keys}.';

create function public.whatsapp_delete_snapshots_v1(p_company_id uuid) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    v_lease constant public.whatsapp_leases := public.whatsapp_lock_lease_v1(p_company_id);
    v_removed integer;
begin
    delete from public.whatsapp_session_snapshots as s where s.company_id = p_company_id;
    get diagnostics v_removed = row_count;
    return jsonb_build_object('removed', v_removed, 'epoch', coalesce(v_lease.epoch, 0));
end
$function$;

comment on function public.whatsapp_delete_snapshots_v1(uuid) is
    'Removes all snapshots of a company, tombstoned ones too. Returns {removed, epoch}: its '
    'objects in S3 up to this epoch can go.';

create function public.whatsapp_rewrap_snapshot_v1(
    p_company_id uuid,
    p_epoch bigint,
    p_seq bigint,
    p_sha256 text,
    p_old_key_id text,
    p_new_key_id text,
    p_wrapped_key text
) returns boolean
language plpgsql
set search_path = ''
as $function$
declare
    v_wrapped_key constant bytea := decode(p_wrapped_key, 'base64');
begin
    update public.whatsapp_session_snapshots as s
    set key_id = p_new_key_id, wrapped_key = v_wrapped_key
    where s.company_id = p_company_id
        and s.epoch = p_epoch
        and s.seq = p_seq
        and s.sha256 = p_sha256
        and (
            s.key_id = p_old_key_id
            or (s.key_id = p_new_key_id and s.wrapped_key = v_wrapped_key)
        );
    return found;
end
$function$;

comment on function public.whatsapp_rewrap_snapshot_v1(
    uuid, bigint, bigint, text, text, text, text
) is
    'Replaces the wrapped data key, base64, of exactly this snapshot if it is still wrapped by '
    'p_old_key_id; true when it is now, also when the same call is repeated.';

create function public.whatsapp_orphaned_objects_v1(p_objects jsonb) returns jsonb
language sql stable
set search_path = ''
as $function$
    select coalesce(jsonb_agg(o.object_key), '[]')
    from jsonb_to_recordset(p_objects) as o (company_id uuid, epoch bigint, object_key text)
    join public.whatsapp_leases as l on l.company_id = o.company_id and l.epoch >= o.epoch
    where not exists (
            select 1
            from public.whatsapp_session_snapshots as s
            where s.company_id = o.company_id and s.object_key = o.object_key
        );
$function$;

comment on function public.whatsapp_orphaned_objects_v1(jsonb) is
    'Which of these objects in S3, [{company_id, epoch, object_key}], no snapshot points to. Those '
    'of terms that this database never gave out are left out: they belong to another one.';

create function public.whatsapp_claim_leases_v2(
    p_owner uuid,
    p_company_ids uuid[],
    p_ttl_seconds double precision
) returns table (
    company_id uuid,
    owner_id uuid,
    epoch bigint,
    expires_at timestamptz,
    granted boolean,
    expires_in_seconds double precision,
    last_version bigint,
    snapshot_epoch bigint,
    snapshot_seq bigint
)
language plpgsql
set search_path = ''
as $function$
#variable_conflict use_column
declare
    v_claims jsonb;
begin
    select coalesce(jsonb_agg(to_jsonb(c)), '[]')
    into v_claims
    from public.whatsapp_claim_leases_v1(p_owner, p_company_ids, p_ttl_seconds) as c;

    -- A statement of its own: it sees what was written until the locks were held.
    return query
    select c.company_id, c.owner_id, c.epoch, c.expires_at, c.granted, c.expires_in_seconds,
        c.last_version, s.epoch, s.seq
    from jsonb_to_recordset(v_claims) as c (
        company_id uuid,
        owner_id uuid,
        epoch bigint,
        expires_at timestamptz,
        granted boolean,
        expires_in_seconds double precision,
        last_version bigint
    )
    left join lateral (
        select n.epoch, n.seq
        from public.whatsapp_session_snapshots as n
        where n.company_id = c.company_id and n.tombstoned_at is null
        order by n.epoch desc, n.seq desc
        limit 1
    ) as s on true
    order by c.company_id;
end
$function$;

comment on function public.whatsapp_claim_leases_v2(uuid, uuid[], double precision) is
    'whatsapp_claim_leases_v1, and the newest live snapshot of each company, nulls when it has '
    'none. Nothing older can be written any more under a term that was granted.';

revoke all on function
    public.whatsapp_lock_lease_v1(uuid),
    public.whatsapp_prune_snapshots_v1(uuid, integer),
    public.whatsapp_write_snapshot_v1(
        uuid, uuid, bigint, bigint, text, text, text, integer, boolean, text, text, integer
    ),
    public.whatsapp_list_snapshots_v1(uuid),
    public.whatsapp_read_snapshot_v1(uuid, bigint, bigint),
    public.whatsapp_snapshot_companies_v1(),
    public.whatsapp_tombstone_snapshots_v1(uuid),
    public.whatsapp_expire_snapshots_v1(double precision),
    public.whatsapp_delete_snapshots_v1(uuid),
    public.whatsapp_rewrap_snapshot_v1(uuid, bigint, bigint, text, text, text, text),
    public.whatsapp_orphaned_objects_v1(jsonb),
    public.whatsapp_claim_leases_v2(uuid, uuid[], double precision)
    from public, anon, authenticated, service_role;
grant execute on function
    public.whatsapp_lock_lease_v1(uuid),
    public.whatsapp_prune_snapshots_v1(uuid, integer),
    public.whatsapp_write_snapshot_v1(
        uuid, uuid, bigint, bigint, text, text, text, integer, boolean, text, text, integer
    ),
    public.whatsapp_list_snapshots_v1(uuid),
    public.whatsapp_read_snapshot_v1(uuid, bigint, bigint),
    public.whatsapp_snapshot_companies_v1(),
    public.whatsapp_tombstone_snapshots_v1(uuid),
    public.whatsapp_expire_snapshots_v1(double precision),
    public.whatsapp_delete_snapshots_v1(uuid),
    public.whatsapp_rewrap_snapshot_v1(uuid, bigint, bigint, text, text, text, text),
    public.whatsapp_orphaned_objects_v1(jsonb),
    public.whatsapp_claim_leases_v2(uuid, uuid[], double precision)
    to service_role;

notify pgrst, 'reload schema';

-- Which instance may run a company's session, decided on the database clock.
--
-- A lease row is never deleted: its epoch must only rise. Rows are always locked in the order of
-- company_id, so calls that overlap wait for each other and never deadlock. The clock is read
-- after the locks are held (clock_timestamp, not now): a call that waited must not judge by the
-- time at which it began.

create table public.whatsapp_leases (
    company_id uuid primary key,
    owner_id uuid,
    epoch bigint not null default 0 check (epoch >= 0),
    expires_at timestamptz not null default '-infinity',
    forgotten_version bigint check (forgotten_version >= 0)
);

comment on table public.whatsapp_leases is
    'The right to run a company''s session: one owner at a time, for a limited term. '
    'Rows are never deleted.';
comment on column public.whatsapp_leases.owner_id is 'The instance that claimed it last.';
comment on column public.whatsapp_leases.epoch is
    'Rises with every claim and when the company is forgotten; what carries an older epoch is '
    'fenced off.';
comment on column public.whatsapp_leases.expires_at is
    'The term ends here; free from then on. -infinity when it was never claimed.';
comment on column public.whatsapp_leases.forgotten_version is
    'The company was forgotten at this version: no transition up to it brings its row back.';

create table public.whatsapp_instances (
    instance_id uuid primary key,
    started_at timestamptz not null,
    heartbeat_at timestamptz not null default clock_timestamp(),
    capacity integer not null check (capacity >= 0),
    session_count integer not null check (session_count >= 0),
    draining boolean not null default false
);

comment on table public.whatsapp_instances is 'The instances of the service and their load.';
comment on column public.whatsapp_instances.instance_id is 'The owner_id of its leases.';
comment on column public.whatsapp_instances.heartbeat_at is 'Its last tick, database clock.';
comment on column public.whatsapp_instances.capacity is 'How many sessions it would run.';
comment on column public.whatsapp_instances.session_count is 'How many it runs.';
comment on column public.whatsapp_instances.draining is 'It is giving its sessions away.';

alter table public.whatsapp_leases enable row level security;
alter table public.whatsapp_instances enable row level security;

revoke all on table public.whatsapp_leases, public.whatsapp_instances
    from public, anon, authenticated, service_role;
grant select, insert, update on table public.whatsapp_leases to service_role;
grant select, insert, update, delete on table public.whatsapp_instances to service_role;

create function public.whatsapp_lease_term_v1(p_ttl_seconds double precision) returns interval
language plpgsql immutable
set search_path = ''
as $function$
begin
    if p_ttl_seconds is null or not (p_ttl_seconds > 0 and p_ttl_seconds <= 300) then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'p_ttl_seconds must be above 0 and at most 300';
    end if;
    return make_interval(secs => p_ttl_seconds);
end
$function$;

comment on function public.whatsapp_lease_term_v1(double precision) is
    'The length of a term; refuses what is not within (0, 300] seconds.';

create function public.whatsapp_last_version_v1(p_company_id uuid) returns bigint
language sql stable
set search_path = ''
as $function$
    select greatest(
        (select c.version from public.whatsapp_connections as c where c.company_id = p_company_id),
        (
            select l.forgotten_version
            from public.whatsapp_leases as l
            where l.company_id = p_company_id
        ),
        0
    );
$function$;

comment on function public.whatsapp_last_version_v1(uuid) is
    'The newest version known of a company: of its row, or at which it was forgotten, or 0.';

create function public.whatsapp_claim_leases_v1(
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
    last_version bigint
)
language plpgsql
set search_path = ''
as $function$
#variable_conflict use_column
declare
    v_term constant interval := public.whatsapp_lease_term_v1(p_ttl_seconds);
begin
    if p_owner is null then
        raise exception using
            errcode = 'invalid_parameter_value', message = 'p_owner must not be null';
    end if;

    insert into public.whatsapp_leases (company_id)
    select distinct wanted.id
    from unnest(p_company_ids) as wanted (id)
    where wanted.id is not null
    order by wanted.id
    on conflict (company_id) do nothing;

    perform 1
    from public.whatsapp_leases as l
    where l.company_id = any (p_company_ids)
    order by l.company_id
    for update;

    return query
    with term as materialized (
        select clock_timestamp() as starts_at
    ),
    claimed as (
        update public.whatsapp_leases as l
        set owner_id = p_owner,
            epoch = l.epoch + 1,
            expires_at = term.starts_at + v_term
        from term
        where l.company_id = any (p_company_ids)
            and (l.owner_id is null or l.owner_id = p_owner or l.expires_at <= term.starts_at)
        returning l.company_id, l.owner_id, l.epoch, l.expires_at
    ),
    answered as (
        select c.*, true as granted from claimed as c
        union all
        select l.company_id, l.owner_id, l.epoch, l.expires_at, false
        from public.whatsapp_leases as l
        where l.company_id = any (p_company_ids)
            and not exists (select 1 from claimed as c where c.company_id = l.company_id)
    )
    select
        a.company_id,
        a.owner_id,
        a.epoch,
        a.expires_at,
        a.granted,
        extract(epoch from a.expires_at - term.starts_at)::double precision,
        public.whatsapp_last_version_v1(a.company_id)
    from answered as a
    cross join term
    order by a.company_id;
end
$function$;

comment on function public.whatsapp_claim_leases_v1(uuid, uuid[], double precision) is
    'Claims leases that are free, expired or already the caller''s, each with a higher epoch; '
    'those that others hold come back with granted = false. last_version is the newest version '
    'known of the company: transitions of the new owner go on from there.';

create function public.whatsapp_renew_leases_v1(
    p_owner uuid,
    p_leases jsonb,
    p_ttl_seconds double precision
) returns table (
    company_id uuid,
    owner_id uuid,
    epoch bigint,
    expires_at timestamptz,
    expires_in_seconds double precision
)
language plpgsql
set search_path = ''
as $function$
#variable_conflict use_column
declare
    v_term constant interval := public.whatsapp_lease_term_v1(p_ttl_seconds);
begin
    perform 1
    from public.whatsapp_leases as l
    where l.company_id in (
            select held.company_id
            from jsonb_to_recordset(p_leases) as held (company_id uuid)
        )
    order by l.company_id
    for update;

    return query
    with term as materialized (
        select clock_timestamp() as starts_at
    ),
    renewed as (
        update public.whatsapp_leases as l
        set expires_at = term.starts_at + v_term
        from term, jsonb_to_recordset(p_leases) as held (company_id uuid, epoch bigint)
        where l.company_id = held.company_id
            and l.epoch = held.epoch
            and l.owner_id = p_owner
            and l.expires_at > term.starts_at
        returning l.company_id, l.owner_id, l.epoch, l.expires_at
    )
    select r.*, extract(epoch from v_term)::double precision
    from renewed as r
    order by r.company_id;
end
$function$;

comment on function public.whatsapp_renew_leases_v1(uuid, jsonb, double precision) is
    'Renews exactly these terms, [{company_id, epoch}], while they last; one that is missing '
    'from the answer is lost.';

create function public.whatsapp_release_leases_v1(p_owner uuid, p_leases jsonb) returns integer
language plpgsql
set search_path = ''
as $function$
declare
    v_released integer;
begin
    perform 1
    from public.whatsapp_leases as l
    where l.company_id in (
            select held.company_id
            from jsonb_to_recordset(p_leases) as held (company_id uuid)
        )
    order by l.company_id
    for update;

    update public.whatsapp_leases as l
    set expires_at = clock_timestamp()
    from jsonb_to_recordset(p_leases) as held (company_id uuid, epoch bigint)
    where l.company_id = held.company_id
        and l.epoch = held.epoch
        and l.owner_id = p_owner
        and l.expires_at > clock_timestamp();

    get diagnostics v_released = row_count;
    return v_released;
end
$function$;

comment on function public.whatsapp_release_leases_v1(uuid, jsonb) is
    'Ends exactly these terms, [{company_id, epoch}], now; returns how many were still held.';

create function public.whatsapp_tick_v1(
    p_instance jsonb,
    p_leases jsonb,
    p_ttl_seconds double precision
) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    v_instance constant uuid := (p_instance ->> 'instance_id')::uuid;
    v_now timestamptz;
    v_renewed jsonb;
begin
    insert into public.whatsapp_instances as i
        (instance_id, started_at, heartbeat_at, capacity, session_count, draining)
    values (
        v_instance,
        (p_instance ->> 'started_at')::timestamptz,
        clock_timestamp(),
        (p_instance ->> 'capacity')::integer,
        (p_instance ->> 'session_count')::integer,
        coalesce((p_instance ->> 'draining')::boolean, false)
    )
    on conflict (instance_id) do update
    set started_at = excluded.started_at,
        heartbeat_at = excluded.heartbeat_at,
        capacity = excluded.capacity,
        session_count = excluded.session_count,
        draining = excluded.draining;

    select coalesce(jsonb_agg(to_jsonb(r) - 'owner_id' order by r.company_id), '[]'::jsonb)
    into v_renewed
    from public.whatsapp_renew_leases_v1(
        v_instance, coalesce(p_leases, '[]'::jsonb), p_ttl_seconds
    ) as r;

    v_now := clock_timestamp();
    return jsonb_build_object(
        'now', v_now,
        'renewed', v_renewed,
        'lost', (
            select coalesce(jsonb_agg(held.company_id order by held.company_id), '[]'::jsonb)
            from jsonb_to_recordset(coalesce(p_leases, '[]'::jsonb)) as held (company_id uuid)
            where not exists (
                    select 1
                    from jsonb_to_recordset(v_renewed) as r (company_id uuid)
                    where r.company_id = held.company_id
                )
        )
    );
end
$function$;

comment on function public.whatsapp_tick_v1(jsonb, jsonb, double precision) is
    'The heartbeat of an instance and the renewal of all its leases in one call. Returns '
    '{now, renewed: [{company_id, epoch, expires_at, expires_in_seconds}], lost: [company_id]}.';

revoke all on function
    public.whatsapp_lease_term_v1(double precision),
    public.whatsapp_last_version_v1(uuid),
    public.whatsapp_claim_leases_v1(uuid, uuid[], double precision),
    public.whatsapp_renew_leases_v1(uuid, jsonb, double precision),
    public.whatsapp_release_leases_v1(uuid, jsonb),
    public.whatsapp_tick_v1(jsonb, jsonb, double precision)
    from public, anon, authenticated, service_role;
grant execute on function
    public.whatsapp_lease_term_v1(double precision),
    public.whatsapp_last_version_v1(uuid),
    public.whatsapp_claim_leases_v1(uuid, uuid[], double precision),
    public.whatsapp_renew_leases_v1(uuid, jsonb, double precision),
    public.whatsapp_release_leases_v1(uuid, jsonb),
    public.whatsapp_tick_v1(jsonb, jsonb, double precision)
    to service_role;

notify pgrst, 'reload schema';

-- Keys that callers of the service are known by: of the service as a whole, or of one company.
--
-- A key itself is never here. mac is an HMAC over the key and over what it opens (company, scopes,
-- expiry), under a pepper that only the service has: whoever can write this table can neither make
-- a key nor widen one. For the same reason nobody is granted an update of these columns.

create table public.whatsapp_api_keys (
    id text primary key check (id ~ '^[a-z2-7]{12}$'),
    name text not null check (name <> '' and length(name) <= 128),
    company_id uuid,
    scopes text[] not null check (cardinality(scopes) > 0),
    pepper_id text not null check (pepper_id ~ '^[0-9a-f]{8}$'),
    mac text not null check (mac ~ '^[0-9a-f]{64}$'),
    created_at timestamptz not null default clock_timestamp(),
    created_by text not null check (created_by <> '' and length(created_by) <= 128),
    expires_at timestamptz,
    revoked_at timestamptz,
    revoked_by text,
    last_used_at timestamptz
);

create index whatsapp_api_keys_company_idx on public.whatsapp_api_keys (company_id, created_at);

comment on table public.whatsapp_api_keys is 'Who may call the service, and for what.';
comment on column public.whatsapp_api_keys.id is 'The part of the key that is not secret.';
comment on column public.whatsapp_api_keys.company_id is
    'The only company that the key reaches; null reaches all.';
comment on column public.whatsapp_api_keys.pepper_id is 'Names the pepper that mac was made with.';
comment on column public.whatsapp_api_keys.mac is
    'HMAC-SHA256, hex, over the key, its id, company, scopes and expiry.';
comment on column public.whatsapp_api_keys.created_by is
    'The caller who asked for it: cli, or the id of the key that was used.';
comment on column public.whatsapp_api_keys.last_used_at is
    'On the clock of a pod; written every few minutes while the key is in use.';

alter table public.whatsapp_api_keys enable row level security;
revoke all on table public.whatsapp_api_keys from public, anon, authenticated, service_role;
grant select, insert on table public.whatsapp_api_keys to service_role;
grant update (revoked_at, revoked_by, last_used_at) on table public.whatsapp_api_keys
    to service_role;

create function public.whatsapp_sync_api_keys_v1(p_used jsonb, p_known text) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    v_fingerprint text;
    v_keys jsonb;
begin
    if p_used is not null and p_used <> '{}'::jsonb then
        -- In the order of their ids, as every pod does, so that pods do not deadlock.
        perform 1
        from public.whatsapp_api_keys as k
        where k.id in (select u.key from jsonb_each_text(p_used) as u)
        order by k.id
        for no key update;
        update public.whatsapp_api_keys as k
        set last_used_at = greatest(k.last_used_at, u.value::timestamptz)
        from jsonb_each_text(p_used) as u
        where k.id = u.key;
    end if;

    select
        coalesce(md5(string_agg(concat_ws('|', k.id, k.mac, k.revoked_at), ',' order by k.id)), ''),
        coalesce(jsonb_agg(to_jsonb(k) order by k.created_at, k.id), '[]')
    into v_fingerprint, v_keys
    from public.whatsapp_api_keys as k
    where coalesce(k.revoked_at, 'infinity') > clock_timestamp() - interval '1 day'
        and coalesce(k.expires_at, 'infinity') > clock_timestamp() - interval '1 day';

    return jsonb_build_object(
        'fingerprint', v_fingerprint,
        'keys', case when v_fingerprint is distinct from p_known then v_keys end
    );
end
$function$;

comment on function public.whatsapp_sync_api_keys_v1(jsonb, text) is
    'Notes when keys were used ({id: time}) and returns the keys that are valid or were until a day '
    'ago, with a fingerprint of them; keys is null when p_known is that fingerprint.';

create function public.whatsapp_list_api_keys_v1(p_company_id uuid) returns jsonb
language sql stable
set search_path = ''
as $function$
    select coalesce(jsonb_agg(to_jsonb(k) order by k.created_at desc, k.id), '[]')
    from (
        select *
        from public.whatsapp_api_keys as every_key
        where p_company_id is null or every_key.company_id = p_company_id
        order by every_key.created_at desc
        limit 5000
    ) as k;
$function$;

comment on function public.whatsapp_list_api_keys_v1(uuid) is
    'The keys of a company, of everybody when it is null, revoked ones included: the newest 5,000. '
    'One value, not rows: the API cuts off rows beyond its limit.';

create function public.whatsapp_revoke_api_key_v1(p_id text, p_by text) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    v_key public.whatsapp_api_keys;
begin
    update public.whatsapp_api_keys as k
    set revoked_at = coalesce(k.revoked_at, clock_timestamp()),
        revoked_by = coalesce(k.revoked_by, p_by)
    where k.id = p_id
    returning * into v_key;
    return case when found then to_jsonb(v_key) end;
end
$function$;

comment on function public.whatsapp_revoke_api_key_v1(text, text) is
    'Ends a key for good and returns it; null when there is none. Safe to repeat: the first time '
    'stays.';

revoke all on function
    public.whatsapp_sync_api_keys_v1(jsonb, text),
    public.whatsapp_list_api_keys_v1(uuid),
    public.whatsapp_revoke_api_key_v1(text, text)
    from public, anon, authenticated, service_role;
grant execute on function
    public.whatsapp_sync_api_keys_v1(jsonb, text),
    public.whatsapp_list_api_keys_v1(uuid),
    public.whatsapp_revoke_api_key_v1(text, text)
    to service_role;

notify pgrst, 'reload schema';

-- Which companies a user of the CRM may reach, decided by a table of the CRM's own.
--
-- The CRM replaces whatsapp_companies_of_user_v1(uuid) (create or replace, in a migration of its own).
-- From then on that function decides: for this service where USER_COMPANY_SOURCE=membership, and for
-- what signed-in users read here, Realtime included. As long as it is the one below, the policy
-- goes by the claim in the token, as before.

create function public.whatsapp_companies_of_user_v1(p_user_id uuid)
returns table (company_id uuid, role text)
language sql stable security definer
set search_path = ''
as $function$
    select null::uuid, null::text where false
$function$;

comment on function public.whatsapp_companies_of_user_v1(uuid) is
    'The companies of a user, and the role in each: several rows of a company add up, null is no role. '
    'Shipped empty, to be replaced by the CRM; never open to users, who could ask about others.';

create function public.whatsapp_membership_source_v1() returns text
language sql stable
set search_path = ''
as $function$
    select coalesce((
        select case
            when btrim(regexp_replace(p.prosrc, '\s+', ' ', 'g'))
                = 'select null::uuid, null::text where false' then 'shipped'
            when has_function_privilege('anon', p.oid, 'execute')
                or has_function_privilege('authenticated', p.oid, 'execute') then 'open'
            else 'own'
        end
        from pg_catalog.pg_proc as p
        where p.oid = to_regprocedure('public.whatsapp_companies_of_user_v1(uuid)')
    ), 'missing');
$function$;

comment on function public.whatsapp_membership_source_v1() is
    'Whose whatsapp_companies_of_user_v1 is: shipped (nobody replaced it), own, open (replaced, but '
    'users may call it), missing.';

create function public.whatsapp_memberships_v1(p_user_id uuid) returns jsonb
language plpgsql stable security definer
set search_path = ''
as $function$
declare
    v_source constant text := public.whatsapp_membership_source_v1();
    v_rows jsonb := '[]';
begin
    if p_user_id is not null and v_source <> 'missing' then
        select coalesce(jsonb_agg(jsonb_build_array(m.company_id, coalesce(m.role::text, ''))), '[]')
        into v_rows
        from public.whatsapp_companies_of_user_v1(p_user_id) as m
        where m.company_id is not null;
    end if;
    return jsonb_build_object('source', v_source, 'companies', v_rows);
end
$function$;

comment on function public.whatsapp_memberships_v1(uuid) is
    'What the service asks: the source, and [company, role] of a user; null asks for the source alone. '
    'One value, not rows: the API cuts off rows beyond its limit.';

create function public.whatsapp_reached_companies_v1() returns uuid[]
language plpgsql stable security definer
set search_path = ''
as $function$
declare
    v_source constant text := public.whatsapp_membership_source_v1();
    v_claims constant text := nullif(current_setting('request.jwt.claims', true), '');
    v_user_id uuid;
begin
    if v_source = 'shipped' then
        return array_remove(array[public.whatsapp_claimed_company_v1()], null);
    end if;
    begin
        v_user_id := (v_claims::jsonb ->> 'sub')::uuid;
    exception when data_exception then
        v_user_id := null;  -- no UUID, or no JSON: nobody's token
    end;
    if v_user_id is null or v_source = 'missing' then
        return '{}';
    end if;
    return array(
        select m.company_id
        from public.whatsapp_companies_of_user_v1(v_user_id) as m
        where m.company_id is not null
    );
end
$function$;

comment on function public.whatsapp_reached_companies_v1() is
    'The companies of the user whose token made this request: by the membership function once the CRM '
    'has replaced it, by the claim until then. Empty for everybody else.';

alter policy "a user reads the connection of their company" on public.whatsapp_connections
    -- In a subquery, so that it is asked once a statement, not once a row.
    using (company_id = any ((select public.whatsapp_reached_companies_v1())::uuid[]));
alter policy "a user reads the connection of their company" on public.whatsapp_connections
    rename to "a user reads the connections of their companies";

revoke all on function
    public.whatsapp_companies_of_user_v1(uuid),
    public.whatsapp_membership_source_v1(),
    public.whatsapp_memberships_v1(uuid),
    public.whatsapp_reached_companies_v1()
    from public, anon, authenticated, service_role;
grant execute on function
    public.whatsapp_companies_of_user_v1(uuid),
    public.whatsapp_membership_source_v1(),
    public.whatsapp_memberships_v1(uuid)
    to service_role;
grant execute on function public.whatsapp_reached_companies_v1() to authenticated;

notify pgrst, 'reload schema';

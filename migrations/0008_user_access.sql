-- A signed-in user of the CRM reads the connection of their own company, and nothing else.
--
-- So a front end can show the status, and follow it with Supabase Realtime, without a key of this
-- service. Who belongs to which company is said by the access token, in app_metadata.company_id,
-- which users cannot change themselves (user_metadata they can). A project that keeps it somewhere
-- else replaces whatsapp_claimed_company_v1() in a migration of its own.

create function public.whatsapp_claimed_company_v1() returns uuid
language plpgsql stable
set search_path = ''
as $function$
declare
    v_claims constant text := nullif(current_setting('request.jwt.claims', true), '');
begin
    return (v_claims::jsonb #>> '{app_metadata,company_id}')::uuid;
exception when data_exception then
    return null;  -- no UUID, or no JSON: a token of somebody who belongs to no company
end
$function$;

comment on function public.whatsapp_claimed_company_v1() is
    'The company of the user whose token made this request; null when it names none. Set by '
    'PostgREST and by Realtime alike.';

revoke all on function public.whatsapp_claimed_company_v1()
    from public, anon, authenticated, service_role;
grant execute on function public.whatsapp_claimed_company_v1() to authenticated;

grant select on table public.whatsapp_connections to authenticated;

create policy "a user reads the connection of their company"
    on public.whatsapp_connections
    for select
    to authenticated
    -- In a subquery, so that it is asked once a statement, not once a row.
    using (company_id = (select public.whatsapp_claimed_company_v1()));

-- Hosted projects have this publication; what is in it is sent to subscribers as far as the policy
-- lets them read it.
do $block$
begin
    if exists (select from pg_publication where pubname = 'supabase_realtime' and not puballtables)
        and not exists (
            select from pg_publication_tables
            where pubname = 'supabase_realtime'
                and schemaname = 'public'
                and tablename = 'whatsapp_connections'
        )
    then
        alter publication supabase_realtime add table public.whatsapp_connections;
    end if;
exception when insufficient_privilege then
    raise warning 'Realtime does not publish public.whatsapp_connections: the publication '
        'supabase_realtime belongs to somebody else. Switch it on under Database > Publications.';
end
$block$;

notify pgrst, 'reload schema';

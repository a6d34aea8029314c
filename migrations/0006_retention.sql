-- What is removed because it is old: the history of transitions, and settled webhook deliveries.
--
-- Each call removes a bounded number, so that none holds locks or a connection for long; rows that
-- somebody else has locked are left for the next call. Age is judged on the database clock.

create index whatsapp_status_events_recorded_idx
    on public.whatsapp_status_events (recorded_at);

create function public.whatsapp_trim_status_events_v1(
    p_older_than_seconds double precision, p_limit integer
) returns integer
language plpgsql
security definer
set search_path = ''
as $function$
declare
    v_removed integer;
begin
    if (p_older_than_seconds >= 86400 and p_limit between 1 and 10000) is not true then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'p_older_than_seconds must be 86400 or more, p_limit 1 to 10000';
    end if;

    with due as materialized (
        select e.id
        from public.whatsapp_status_events as e
        where e.recorded_at
                < clock_timestamp() - make_interval(secs => least(p_older_than_seconds, 3e9))
            and exists (
                select 1
                from public.whatsapp_status_events as newer
                where newer.company_id = e.company_id
                    and newer.version >= e.version
                    and (newer.version, newer.id) > (e.version, e.id)
            )
        order by e.recorded_at
        limit p_limit
        for update skip locked
    )
    delete from public.whatsapp_status_events as e
    using due as d
    where e.id = d.id;
    get diagnostics v_removed = row_count;
    return v_removed;
end
$function$;

comment on function public.whatsapp_trim_status_events_v1(double precision, integer) is
    'Removes up to p_limit (10,000 at most) of the oldest transitions recorded longer than '
    'p_older_than_seconds ago, which is a day at least; the newest of each company stays. Returns '
    'how many went. Runs with the rights of its owner: the service itself can only add to the '
    'history.';

create function public.whatsapp_trim_deliveries_v1(
    p_state text, p_older_than_seconds double precision, p_limit integer
) returns integer
language plpgsql
set search_path = ''
as $function$
declare
    v_removed integer;
begin
    if (p_state in ('delivered', 'parked')
            and p_older_than_seconds >= 0
            and p_limit between 1 and 10000) is not true then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'p_state must be delivered or parked, p_older_than_seconds 0 or more, '
                'p_limit 1 to 10000';
    end if;

    with due as materialized (
        select w.id
        from public.whatsapp_webhook_deliveries as w
        where w.state = p_state
            and w.settled_at
                < clock_timestamp() - make_interval(secs => least(p_older_than_seconds, 3e9))
        order by w.settled_at
        limit p_limit
        for update skip locked
    )
    delete from public.whatsapp_webhook_deliveries as w
    using due as d
    where w.id = d.id;
    get diagnostics v_removed = row_count;
    return v_removed;
end
$function$;

comment on function public.whatsapp_trim_deliveries_v1(text, double precision, integer) is
    'Removes up to p_limit (10,000 at most) of the deliveries that were settled with p_state, '
    'delivered or parked, longer than p_older_than_seconds ago. Returns how many went.';

revoke all on function
    public.whatsapp_trim_status_events_v1(double precision, integer),
    public.whatsapp_trim_deliveries_v1(text, double precision, integer)
    from public, anon, authenticated, service_role;
grant execute on function
    public.whatsapp_trim_status_events_v1(double precision, integer),
    public.whatsapp_trim_deliveries_v1(text, double precision, integer)
    to service_role;

notify pgrst, 'reload schema';

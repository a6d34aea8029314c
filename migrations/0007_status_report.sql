-- What the status report tells of the past, worked out where the history is: one call, and an
-- answer whose size does not grow with it.

create function public.whatsapp_report_v1(
    p_since timestamptz,
    p_until timestamptz,
    p_company_ids uuid[],
    p_running_ids uuid[],
    p_worst integer default 5
)
returns jsonb
language sql stable
set search_path = ''
-- How much of a company's history the window holds is not known before it is read; the planner
-- takes it for a third of all, and would rather read the whole table.
set enable_seqscan = 'off'
as $function$
    with company as (
        select distinct c.id from unnest(p_company_ids || p_running_ids) as c (id)
    ),
    running as (
        select distinct r.id from unnest(p_running_ids) as r (id)
    ),
    -- Each company's history from the last line before the window that was not about a restore:
    -- it says what held when the window began, and no restore is cut in two. Both look-ups go
    -- along the index of company and version and read nothing older.
    step as (
        select
            e.company_id,
            e.to_status,
            e.reason,
            e.occurred_at,
            lead(e.occurred_at) over line as next_at,
            count(*) filter (where e.reason <> 'restoring') over (
                line rows between unbounded preceding and 1 preceding
            ) as stretch
        from company as c
        cross join lateral (
            select coalesce((
                select b.version
                from public.whatsapp_status_events as b
                where b.company_id = c.id and b.occurred_at <= p_since and b.reason <> 'restoring'
                order by b.version desc
                limit 1
            ), -1) as version
        ) as start
        join public.whatsapp_status_events as e
            on e.company_id = c.id and e.version >= start.version
        where e.occurred_at < p_until
        window line as (partition by e.company_id order by e.version, e.recorded_at, e.id)
    ),
    -- A stretch is a run of `restoring` and the line that ended it.
    restore as (
        select
            min(s.occurred_at) filter (
                where s.reason = 'restoring' and s.to_status = 'connecting'
            ) as begun_at,
            max(s.occurred_at) filter (where s.reason <> 'restoring') as ended_at,
            max(s.reason) filter (where s.reason <> 'restoring') as ending
        from step as s
        group by s.company_id, s.stretch
    ),
    outcome as (
        select
            r.ending = 'online' as succeeded,
            greatest(extract(epoch from r.ended_at - r.begun_at), 0)::double precision as seconds
        from restore as r
        where r.begun_at is not null
            and r.ended_at >= p_since
            and r.ending not in (
                'never-connected', 'stopped', 'preparing-pairing', 'pairing', 'finishing-pairing',
                'logged-out-by-user', 'pairing-expired', 'pairing-failed', 'held-elsewhere',
                'logging-out', 'service-stopped'
            )
    ),
    slice as (
        select
            s.company_id,
            s.to_status = 'connected' as is_connected,
            s.reason not in (
                'never-connected', 'stopped', 'preparing-pairing', 'pairing', 'finishing-pairing',
                'logged-out-by-user', 'pairing-expired', 'pairing-failed', 'logging-out'
            ) as is_wanted,
            greatest(
                extract(
                    epoch from least(coalesce(s.next_at, p_until), p_until)
                        - greatest(s.occurred_at, p_since)
                ),
                0
            )::double precision as seconds
        from step as s
        join running as r on r.id = s.company_id
    ),
    uptime as (
        select
            s.company_id,
            coalesce(sum(s.seconds) filter (where s.is_connected), 0) as connected,
            coalesce(sum(s.seconds) filter (where s.is_wanted), 0) as wanted
        from slice as s
        group by s.company_id
    ),
    share as (
        select u.company_id, u.connected, u.wanted, 100 * u.connected / u.wanted as percent
        from uptime as u
        where u.wanted > 0
    ),
    worst as (
        select s.*
        from share as s
        order by s.percent, s.company_id
        limit p_worst
    ),
    newest_snapshot as (
        select max(s.created_at) as created_at
        from running as r
        join public.whatsapp_session_snapshots as s on s.company_id = r.id
        where s.tombstoned_at is null
        group by r.id
    )
    select jsonb_build_object(
        'restores', (
            select jsonb_build_object(
                'succeeded', count(*) filter (where o.succeeded),
                'failed', count(*) filter (where not o.succeeded),
                'p50_seconds', percentile_cont(0.5) within group (order by o.seconds)
                    filter (where o.succeeded),
                'p95_seconds', percentile_cont(0.95) within group (order by o.seconds)
                    filter (where o.succeeded)
            )
            from outcome as o
        ),
        'uptime', (
            select jsonb_build_object('companies', count(*), 'average_percent', avg(s.percent))
            from share as s
        ),
        'worst', (
            select coalesce(
                jsonb_agg(
                    jsonb_build_object(
                        'company_id', w.company_id,
                        'percent', w.percent,
                        'connected_seconds', w.connected,
                        'wanted_seconds', w.wanted
                    )
                    order by w.percent, w.company_id
                ),
                '[]'
            )
            from worst as w
        ),
        'snapshots', (
            select jsonb_build_object('companies', count(*), 'oldest_at', min(n.created_at))
            from newest_snapshot as n
        )
    );
$function$;

comment on function public.whatsapp_report_v1(
    timestamptz, timestamptz, uuid[], uuid[], integer
) is
    'What happened from p_since (inclusive) to p_until (exclusive). restores {succeeded, failed, '
    'p50_seconds, p95_seconds}: of p_company_ids and p_running_ids, by the time they ended; a '
    'restore is a run of reason restoring that was connecting, and one that a person or a stop of '
    'the service ended counts as neither. uptime {companies, average_percent} and worst: of '
    'p_running_ids, connected time by the time in which anybody wanted the session connected; what '
    'held when the window began and what still holds is counted in. snapshots {companies, '
    'oldest_at}: of p_running_ids, by the newest live snapshot of each.';

revoke all on function public.whatsapp_report_v1(
    timestamptz, timestamptz, uuid[], uuid[], integer
) from public, anon, authenticated, service_role;
grant execute on function public.whatsapp_report_v1(
    timestamptz, timestamptz, uuid[], uuid[], integer
) to service_role;

notify pgrst, 'reload schema';

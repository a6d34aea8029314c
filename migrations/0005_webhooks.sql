-- Who wants to hear of what happens, and the queue of what is still to be told.
--
-- A lane is a webhook and a company, or a webhook and the service itself. Deliveries of a lane are
-- sent one after another, in the order of their place, so a lane is claimed as a whole, and one
-- that waits to try again holds up only itself. due_at says when a lane is worth claiming: now,
-- when its first delivery may be tried, or when the claim of somebody who may have died ends. Idle
-- lanes have none and are in no index, so what a claim costs depends on what is due alone.
--
-- Who waits for lanes (queueing, settling, redelivering) first takes the advisory locks of their
-- companies, in the order of the lock numbers, as the functions that record transitions do, and
-- locks webhooks only after that. Who claims waits for nobody. So no calls deadlock, and a lane is
-- filled in the order in which the calls that fill it commit.

create table public.whatsapp_webhooks (
    id uuid primary key,
    company_id uuid,
    url text not null check (url <> ''),
    kinds text[] not null default '{}' check (
        kinds <@ array[
            'session.status', 'session.qr', 'message.received', 'message.status', 'session.alert'
        ]
    ),
    secret_key_id text check (secret_key_id <> ''),
    secret_value text not null check (secret_value <> ''),
    enabled boolean not null default true,
    origin text not null default 'api' check (origin in ('api', 'environment')),
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp()
);

comment on table public.whatsapp_webhooks is 'Addresses that are told of what happens.';
comment on column public.whatsapp_webhooks.company_id is
    'The only company it hears of; null hears of all and of the service itself.';
comment on column public.whatsapp_webhooks.kinds is 'What it hears of; empty means everything.';
comment on column public.whatsapp_webhooks.secret_key_id is
    'The key encryption key that its signing secret is sealed under; null when it is not sealed.';
comment on column public.whatsapp_webhooks.secret_value is
    'Its signing secret, sealed and in base64, or as it is.';
comment on column public.whatsapp_webhooks.enabled is
    'False keeps its deliveries waiting and queues no new ones.';
comment on column public.whatsapp_webhooks.origin is
    'api: registered by a call; environment: set by WEBHOOK_URL, and changed there alone.';

create table public.whatsapp_webhook_lanes (
    id bigint generated always as identity primary key,
    webhook_id uuid not null references public.whatsapp_webhooks on delete cascade,
    company_id uuid,
    due_at timestamptz,
    token uuid,
    claimed_by uuid,
    claimed_through bigint,
    unique nulls not distinct (webhook_id, company_id)
)
with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

create index whatsapp_webhook_lanes_due_idx
    on public.whatsapp_webhook_lanes (webhook_id, due_at)
    where due_at is not null;

comment on table public.whatsapp_webhook_lanes is
    'The queues: one for each webhook and company. A row stays once it was made.';
comment on column public.whatsapp_webhook_lanes.company_id is
    'Null: what concerns the service as a whole.';
comment on column public.whatsapp_webhook_lanes.due_at is
    'When it is worth claiming: the time of its first waiting delivery, or while it is claimed the '
    'end of the claim. Null when nothing waits.';
comment on column public.whatsapp_webhook_lanes.token is
    'Proves the claim that holds it; null when nobody does.';
comment on column public.whatsapp_webhook_lanes.claimed_by is 'The instance that holds it.';
comment on column public.whatsapp_webhook_lanes.claimed_through is
    'The place of the last delivery that the claim took.';

create sequence public.whatsapp_webhook_places as bigint;

comment on sequence public.whatsapp_webhook_places is
    'Numbers the places of deliveries in their lanes.';

create table public.whatsapp_webhook_deliveries (
    id bigint generated always as identity primary key,
    webhook_id uuid not null references public.whatsapp_webhooks on delete cascade,
    lane_id bigint not null,
    place bigint not null default nextval('public.whatsapp_webhook_places'),
    company_id uuid,
    notice_id uuid not null,
    kind text not null check (
        kind in (
            'session.status', 'session.qr', 'message.received', 'message.status', 'session.alert'
        )
    ),
    occurred_at timestamptz not null,
    data jsonb not null,
    state text not null default 'pending' check (state in ('pending', 'delivered', 'parked')),
    attempts integer not null default 0 check (attempts >= 0),
    next_attempt_at timestamptz,
    last_token uuid,
    last_status_code integer,
    last_error text,
    queued_at timestamptz not null default clock_timestamp(),
    last_attempt_at timestamptz,
    settled_at timestamptz,
    unique (webhook_id, notice_id),
    constraint whatsapp_webhook_deliveries_state_times check (
        (state = 'pending') = (next_attempt_at is not null)
        and (state = 'pending') = (settled_at is null)
    )
);

-- The one index that claiming reads; what is settled leaves it.
create index whatsapp_webhook_deliveries_pending_idx
    on public.whatsapp_webhook_deliveries (lane_id, place)
    where state = 'pending';
-- The delivery log, and the counts.
create index whatsapp_webhook_deliveries_log_idx
    on public.whatsapp_webhook_deliveries (webhook_id, state, id);
-- The removal of what was settled long ago.
create index whatsapp_webhook_deliveries_settled_idx
    on public.whatsapp_webhook_deliveries (state, settled_at)
    where settled_at is not null;

comment on table public.whatsapp_webhook_deliveries is
    'What is to be told, or was, to each webhook: a notice once for each.';
comment on column public.whatsapp_webhook_deliveries.id is 'Its name in the delivery log.';
comment on column public.whatsapp_webhook_deliveries.lane_id is
    'Its lane; without a foreign key, since lanes and deliveries end only with their webhook.';
comment on column public.whatsapp_webhook_deliveries.place is
    'Its place in the lane. A redelivery takes a new one, at the end.';
comment on column public.whatsapp_webhook_deliveries.notice_id is
    'Names what happened, the same for every webhook and attempt.';
comment on column public.whatsapp_webhook_deliveries.data is
    'What happened. Holds QR texts, phone numbers and message bodies.';
comment on column public.whatsapp_webhook_deliveries.state is
    'pending: to be tried; delivered: the target answered 2xx; parked: given up until somebody '
    'asks for a redelivery.';
comment on column public.whatsapp_webhook_deliveries.attempts is
    'How often it was tried since it was queued.';
comment on column public.whatsapp_webhook_deliveries.next_attempt_at is
    'While pending: not tried before.';
comment on column public.whatsapp_webhook_deliveries.last_token is
    'The claim under which it was settled last, so that a repeated report is known.';
comment on column public.whatsapp_webhook_deliveries.last_status_code is
    'What the target answered; null when no answer came.';
comment on column public.whatsapp_webhook_deliveries.last_error is 'Why it failed, for people.';
comment on column public.whatsapp_webhook_deliveries.queued_at is
    'When it was queued, anew when it is delivered again.';
comment on column public.whatsapp_webhook_deliveries.settled_at is
    'When it was delivered or parked.';

alter table public.whatsapp_webhooks enable row level security;
alter table public.whatsapp_webhook_lanes enable row level security;
alter table public.whatsapp_webhook_deliveries enable row level security;

revoke all on table
    public.whatsapp_webhooks, public.whatsapp_webhook_lanes, public.whatsapp_webhook_deliveries
    from public, anon, authenticated, service_role;
revoke all on sequence public.whatsapp_webhook_places
    from public, anon, authenticated, service_role;
grant select, insert, update, delete on table public.whatsapp_webhooks to service_role;
grant select, insert, update on table public.whatsapp_webhook_lanes to service_role;
grant select, insert, update, delete on table public.whatsapp_webhook_deliveries to service_role;
grant usage on sequence public.whatsapp_webhook_places to service_role;

create function public.whatsapp_list_webhooks_v1() returns jsonb
language sql stable
set search_path = ''
as $function$
    select coalesce(jsonb_agg(to_jsonb(w) order by w.created_at, w.id), '[]')
    from public.whatsapp_webhooks as w;
$function$;

comment on function public.whatsapp_list_webhooks_v1() is
    'Every webhook, oldest first. One value, not rows: the API cuts off rows beyond its limit.';

create function public.whatsapp_remove_webhook_v1(p_webhook_id uuid) returns boolean
language plpgsql
set search_path = ''
as $function$
begin
    -- First the webhook, so that nobody queues for it any more, then its lanes in the order in
    -- which everybody locks them.
    perform 1 from public.whatsapp_webhooks as w where w.id = p_webhook_id for update;
    perform 1
    from public.whatsapp_webhook_lanes as l
    where l.webhook_id = p_webhook_id
    order by l.id
    for update;
    delete from public.whatsapp_webhooks as w where w.id = p_webhook_id;
    return found;
end
$function$;

comment on function public.whatsapp_remove_webhook_v1(uuid) is
    'Removes a webhook with its lanes and deliveries; false when there is none.';

create function public.whatsapp_lock_companies_v1(p_company_ids uuid[]) returns void
language plpgsql
set search_path = ''
as $function$
declare
    v_lock bigint;
begin
    for v_lock in
        select distinct coalesce(
            public.whatsapp_company_lock_v1(c.id), hashtextextended('whatsapp_webhook_lanes', 0)
        ) as number
        from unnest(p_company_ids) as c (id)
        order by number
    loop
        perform pg_advisory_xact_lock(v_lock);
    end loop;
end
$function$;

comment on function public.whatsapp_lock_companies_v1(uuid[]) is
    'Takes the advisory locks of these companies until the transaction ends, in the order of their '
    'numbers. A null among them stands for the service itself.';

create function public.whatsapp_queue_notice_v1(
    p_notice_id uuid,
    p_kind text,
    p_company_id uuid,
    p_occurred_at timestamptz,
    p_data jsonb
) returns integer
language plpgsql
set search_path = ''
as $function$
declare
    -- One time for lane and delivery: a lane must not be due before what it holds.
    v_now constant timestamptz := clock_timestamp();
    v_queued integer;
begin
    with wanting as materialized (
        select w.id
        from public.whatsapp_webhooks as w
        where w.enabled
            and (w.kinds = '{}' or p_kind = any (w.kinds))
            and (w.company_id is null or w.company_id = p_company_id)
        order by w.id
        for key share
    ),
    lane as (
        insert into public.whatsapp_webhook_lanes as l (webhook_id, company_id, due_at)
        select w.id, p_company_id, v_now
        from wanting as w
        order by w.id
        on conflict (webhook_id, company_id) do update
        set due_at = coalesce(l.due_at, excluded.due_at)
        returning l.id, l.webhook_id
    )
    insert into public.whatsapp_webhook_deliveries
        (webhook_id, lane_id, company_id, notice_id, kind, occurred_at, data, next_attempt_at,
         queued_at)
    select l.webhook_id, l.id, p_company_id, p_notice_id, p_kind, p_occurred_at, p_data, v_now,
        v_now
    from lane as l
    on conflict (webhook_id, notice_id) do nothing;

    get diagnostics v_queued = row_count;
    return v_queued;
end
$function$;

comment on function public.whatsapp_queue_notice_v1(uuid, text, uuid, timestamptz, jsonb) is
    'Queues one notice for every webhook that wants it and does not have it yet; returns for how '
    'many. The caller holds the lock of its company.';

create function public.whatsapp_read_notice_v1(p_notice jsonb)
returns public.whatsapp_webhook_deliveries
language plpgsql stable
set search_path = ''
as $function$
declare
    v_notice public.whatsapp_webhook_deliveries;
begin
    v_notice.notice_id := (p_notice ->> 'id')::uuid;
    v_notice.kind := p_notice ->> 'kind';
    v_notice.company_id := (p_notice ->> 'company_id')::uuid;
    v_notice.occurred_at := (p_notice ->> 'occurred_at')::timestamptz;
    v_notice.data := p_notice -> 'data';
    if (
            v_notice.notice_id is not null
            and v_notice.kind in (
                'session.status', 'session.qr', 'message.received', 'message.status',
                'session.alert'
            )
            and v_notice.occurred_at between '0001-01-01 UTC' and '9999-12-31 UTC'
            and jsonb_typeof(v_notice.data) = 'object'
        ) is not true
    then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'a notice needs an id, a known kind, a time and an object of data';
    end if;
    return v_notice;
end
$function$;

comment on function public.whatsapp_read_notice_v1(jsonb) is
    'Reads one element of whatsapp_enqueue_notices_v1; raises a data exception when it is none.';

create function public.whatsapp_enqueue_notices_v1(p_notices jsonb) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    v_notices public.whatsapp_webhook_deliveries[] := '{}';
    v_notice public.whatsapp_webhook_deliveries;
    v_element jsonb;
    v_index integer := 0;
    v_invalid jsonb := '[]';
    v_queued integer := 0;
begin
    if jsonb_array_length(p_notices) > 1000 then
        raise exception using
            errcode = 'program_limit_exceeded', message = 'at most 1000 notices a call';
    end if;

    for v_element in select e.value from jsonb_array_elements(p_notices) as e loop
        begin
            v_notices := array_append(v_notices, public.whatsapp_read_notice_v1(v_element));
        exception when data_exception then
            v_invalid := v_invalid || jsonb_build_object(
                'index', v_index, 'id', v_element ->> 'id', 'error', sqlerrm
            );
        end;
        v_index := v_index + 1;
    end loop;

    if exists (select 1 from public.whatsapp_webhooks as w where w.enabled) then
        perform public.whatsapp_lock_companies_v1(
            array(select n.company_id from unnest(v_notices) as n)
        );
        foreach v_notice in array v_notices loop
            v_queued := v_queued + public.whatsapp_queue_notice_v1(
                v_notice.notice_id, v_notice.kind, v_notice.company_id, v_notice.occurred_at,
                v_notice.data
            );
        end loop;
    end if;
    return jsonb_build_object('queued', v_queued, 'invalid', v_invalid);
end
$function$;

comment on function public.whatsapp_enqueue_notices_v1(jsonb) is
    'Queues notices in array order, each once for every enabled webhook that wants it: [{id, kind, '
    'company_id, occurred_at, data}], at most 1000; safe to repeat. Returns {queued, invalid: '
    '[{index, id, error}]}: how many deliveries were added, and what was left out because it is '
    'no notice. Texts with a NUL character or half a surrogate pair are no JSON to Postgres and '
    'fail the call: leave them out.';

create function public.whatsapp_claim_deliveries_v1(
    p_owner uuid,
    p_lanes integer,
    p_per_lane integer,
    p_hold_seconds double precision,
    p_except_webhooks uuid[] default '{}'
) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    v_now constant timestamptz := clock_timestamp();
    v_except constant uuid[] := coalesce(p_except_webhooks, '{}');
    v_token constant uuid := gen_random_uuid();
    v_lane_ids bigint[];
    v_deliveries jsonb;
    v_next_due_at timestamptz;
begin
    if (
            p_owner is not null
            and p_lanes between 1 and 1000
            and p_per_lane between 1 and 1000
            and p_hold_seconds > 0 and p_hold_seconds <= 3600
        ) is not true
    then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'p_owner must be given, p_lanes and p_per_lane be 1 to 1000, '
                'p_hold_seconds be above 0 and at most 3600';
    end if;

    -- Webhooks take turns, so that one with many lanes does not keep the others waiting.
    with due as materialized (
        select
            l.id,
            l.due_at,
            row_number() over (partition by w.id order by l.due_at, l.id) as turn
        from public.whatsapp_webhooks as w
        cross join lateral (
            select n.id, n.due_at
            from public.whatsapp_webhook_lanes as n
            where n.webhook_id = w.id and n.due_at <= v_now
            order by n.due_at
            limit p_lanes
        ) as l
        where w.enabled and w.id <> all (v_except)
    ),
    -- One by one, so that the table is never read through, whatever its statistics say.
    taken as materialized (
        select l.id, d.turn, d.due_at
        from (select * from due order by turn, due_at, id) as d
        cross join lateral (
            select n.id
            from public.whatsapp_webhook_lanes as n
            where n.id = d.id and n.due_at <= v_now
            for no key update skip locked
        ) as l
        limit p_lanes
    )
    select coalesce(array_agg(t.id order by t.turn, t.due_at, t.id), '{}')
    into v_lane_ids
    from taken as t;

    -- A statement of its own: it sees what was queued until the lanes were locked.
    with head as materialized (
        select t.turn, h.*
        from unnest(v_lane_ids) with ordinality as t (lane_id, turn)
        cross join lateral (
            select d.*, bool_and(d.next_attempt_at <= v_now) over (order by d.place) as is_due
            from (
                select p.*
                from public.whatsapp_webhook_deliveries as p
                where p.lane_id = t.lane_id and p.state = 'pending'
                order by p.place
                limit p_per_lane
            ) as d
        ) as h
    ),
    claimed as (
        update public.whatsapp_webhook_lanes as l
        set token = v_token,
            claimed_by = p_owner,
            claimed_through = c.last_place,
            due_at = v_now + make_interval(secs => p_hold_seconds)
        from (
            select h.lane_id, max(h.place) as last_place
            from head as h
            where h.is_due
            group by h.lane_id
        ) as c
        where l.id = c.lane_id
    ),
    let_go as (
        update public.whatsapp_webhook_lanes as l
        set token = null,
            claimed_by = null,
            claimed_through = null,
            due_at = (
                select h.next_attempt_at
                from head as h
                where h.lane_id = l.id
                order by h.place
                limit 1
            )
        where l.id = any (v_lane_ids)
            and not exists (select 1 from head as h where h.lane_id = l.id and h.is_due)
    )
    select coalesce(
        jsonb_agg(
            jsonb_build_object(
                'id', h.id,
                'webhook_id', h.webhook_id,
                'lane', h.lane_id,
                'company_id', h.company_id,
                'notice_id', h.notice_id,
                'kind', h.kind,
                'occurred_at', h.occurred_at,
                'data', h.data,
                'attempt', h.attempts + 1,
                'queued_at', h.queued_at
            )
            order by h.turn, h.place
        ),
        '[]'
    )
    into v_deliveries
    from head as h
    where h.is_due;

    select min(l.due_at)
    into v_next_due_at
    from public.whatsapp_webhooks as w
    cross join lateral (
        select n.due_at
        from public.whatsapp_webhook_lanes as n
        where n.webhook_id = w.id and n.due_at is not null
        order by n.due_at
        limit 1
    ) as l
    where w.enabled and w.id <> all (v_except);

    return jsonb_build_object(
        'token', v_token,
        'deliveries', v_deliveries,
        'next_due_seconds', case
            when v_next_due_at is not null then greatest(
                extract(epoch from v_next_due_at - clock_timestamp()),
                -- Somebody is at what is due: it is too early to ask again at once.
                case when v_deliveries = '[]' then 0.05 else 0 end
            )
        end
    );
end
$function$;

comment on function public.whatsapp_claim_deliveries_v1(
    uuid, integer, integer, double precision, uuid[]
) is
    'Claims up to p_lanes lanes that are due, of enabled webhooks other than these, for '
    'p_hold_seconds, and up to p_per_lane deliveries of each. Returns {token, deliveries, '
    'next_due_seconds}: the deliveries of a lane in the order in which they are to be sent; '
    'seconds until another lane is due or a claim ends, these claims included, null when nothing '
    'waits. Waits for nobody: a lane that somebody is at is left out.';

create function public.whatsapp_settle_deliveries_v1(p_attempts jsonb) returns integer
language plpgsql
set search_path = ''
as $function$
declare
    v_ids bigint[];
    v_now timestamptz;
    v_held integer;
begin
    if jsonb_array_length(p_attempts) > 1000 then
        raise exception using
            errcode = 'program_limit_exceeded', message = 'at most 1000 attempts a call';
    end if;
    v_ids := array(
        select a.delivery_id from jsonb_to_recordset(p_attempts) as a (delivery_id bigint)
    );

    perform public.whatsapp_lock_companies_v1(
        array(
            select d.company_id
            from public.whatsapp_webhook_deliveries as d
            where d.id = any (v_ids)
        )
    );
    perform 1
    from public.whatsapp_webhook_lanes as l
    where l.id in (
            select d.lane_id
            from public.whatsapp_webhook_deliveries as d
            where d.id = any (v_ids)
        )
    order by l.id
    for no key update;
    v_now := clock_timestamp();

    with attempt as materialized (
        select distinct on (a.delivery_id)
            a.*,
            least(greatest(coalesce(a.retry_in_seconds, 0), 0), 604800) as wait_seconds,
            a.state = 'pending' and a.status_code is null and a.error is null as is_untried
        from jsonb_to_recordset(p_attempts) as a (
            delivery_id bigint,
            token uuid,
            state text,
            retry_in_seconds double precision,
            status_code integer,
            error text
        )
        order by a.delivery_id
    ),
    held as materialized (
        select a.*, coalesce(d.last_token = a.token, false) as is_repeated
        from attempt as a
        join public.whatsapp_webhook_deliveries as d on d.id = a.delivery_id
        join public.whatsapp_webhook_lanes as l on l.id = d.lane_id
        where d.last_token = a.token
            or (l.token = a.token and d.place <= l.claimed_through and d.state = 'pending')
    ),
    settled as (
        update public.whatsapp_webhook_deliveries as d
        set state = h.state,
            attempts = case when h.is_untried then d.attempts else d.attempts + 1 end,
            next_attempt_at = case
                when h.state = 'pending' then v_now + make_interval(secs => h.wait_seconds)
            end,
            last_token = h.token,
            last_status_code = case
                when h.is_untried then d.last_status_code else h.status_code
            end,
            last_error = case when h.is_untried then d.last_error else h.error end,
            last_attempt_at = case when h.is_untried then d.last_attempt_at else v_now end,
            settled_at = case when h.state <> 'pending' then v_now end
        from held as h
        where d.id = h.delivery_id and not h.is_repeated
    )
    select count(*) into v_held from held as h;

    -- A lane is let go when nothing that was claimed is left to be tried now.
    update public.whatsapp_webhook_lanes as l
    set token = null,
        claimed_by = null,
        claimed_through = null,
        due_at = (
            select d.next_attempt_at
            from public.whatsapp_webhook_deliveries as d
            where d.lane_id = l.id and d.state = 'pending'
            order by d.place
            limit 1
        )
    from (
        select distinct d.lane_id, a.token
        from jsonb_to_recordset(p_attempts) as a (delivery_id bigint, token uuid)
        join public.whatsapp_webhook_deliveries as d on d.id = a.delivery_id
    ) as mine
    where l.id = mine.lane_id
        and l.token = mine.token
        and (
            select
                count(*) filter (where d.last_token is distinct from l.token) = 0
                or count(*) filter (where d.last_token = l.token) > 0
            from public.whatsapp_webhook_deliveries as d
            where d.lane_id = l.id and d.state = 'pending' and d.place <= l.claimed_through
        );
    return v_held;
end
$function$;

comment on function public.whatsapp_settle_deliveries_v1(jsonb) is
    'Writes how attempts ended: [{delivery_id, token, state, retry_in_seconds, status_code, '
    'error}], at most 1000; safe to repeat. pending: to be tried again after retry_in_seconds, '
    'and not counted as an attempt when status_code and error are null. Returns for how many the '
    'claim held, or was not taken by anybody else; the others are left alone. A lane is let go '
    'once all that was claimed of it is settled, or one of these is pending: those behind it wait '
    'with it.';

create function public.whatsapp_redeliver_v1(
    p_webhook_id uuid,
    p_delivery_ids bigint[] default null,
    p_after bigint default 0
) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    v_now timestamptz;
    v_ids bigint[];
    v_queued integer;
begin
    if cardinality(p_delivery_ids) > 1000 then
        raise exception using
            errcode = 'program_limit_exceeded', message = 'at most 1000 deliveries a call';
    end if;
    if p_delivery_ids is null then
        v_ids := array(
            select d.id
            from public.whatsapp_webhook_deliveries as d
            where d.webhook_id = p_webhook_id and d.state = 'parked' and d.id > p_after
            order by d.id
            limit 1000
        );
    else
        v_ids := array(
            select d.id
            from public.whatsapp_webhook_deliveries as d
            where d.webhook_id = p_webhook_id and d.id = any (p_delivery_ids)
            order by d.id
        );
    end if;

    perform public.whatsapp_lock_companies_v1(
        array(
            select d.company_id
            from public.whatsapp_webhook_deliveries as d
            where d.id = any (v_ids)
        )
    );
    perform 1 from public.whatsapp_webhooks as w where w.id = p_webhook_id for key share;
    v_now := clock_timestamp();

    insert into public.whatsapp_webhook_lanes as l (webhook_id, company_id, due_at)
    select distinct d.webhook_id, d.company_id, v_now
    from public.whatsapp_webhook_deliveries as d
    where d.id = any (v_ids) and d.state <> 'pending'
    on conflict (webhook_id, company_id) do update
    set due_at = coalesce(l.due_at, excluded.due_at);

    with chosen as materialized (
        select o.id, o.lane_id, nextval('public.whatsapp_webhook_places') as place
        from (
            select d.id, l.id as lane_id
            from public.whatsapp_webhook_deliveries as d
            join public.whatsapp_webhook_lanes as l
                on l.webhook_id = d.webhook_id
                and l.company_id is not distinct from d.company_id
            where d.id = any (v_ids) and d.state <> 'pending'
            order by d.id
        ) as o
    )
    update public.whatsapp_webhook_deliveries as d
    set lane_id = c.lane_id,
        place = c.place,
        state = 'pending',
        attempts = 0,
        next_attempt_at = v_now,
        last_token = null,
        queued_at = v_now,
        settled_at = null
    from chosen as c
    where d.id = c.id;

    get diagnostics v_queued = row_count;
    return jsonb_build_object(
        'queued', v_queued, 'last_id', v_ids[cardinality(v_ids)]
    );
end
$function$;

comment on function public.whatsapp_redeliver_v1(uuid, bigint[], bigint) is
    'Puts deliveries of a webhook that are delivered or parked at the end of their lanes, with all '
    'attempts before them; those that are pending stay as they are. Without ids: the first 1000 '
    'that are parked after the id p_after. Returns {queued, last_id}: go on from last_id until it '
    'is null.';

create function public.whatsapp_list_deliveries_v1(
    p_webhook_id uuid,
    p_state text default null,
    p_before bigint default null,
    p_limit integer default 50
) returns jsonb
language sql stable
set search_path = ''
as $function$
    select coalesce(jsonb_agg(to_jsonb(f) order by f.id desc), '[]')
    from (
        select d.*
        from unnest(
            case when p_state is null then array['pending', 'delivered', 'parked']
            else array[p_state] end
        ) as s (state)
        cross join lateral (
            select n.id, n.webhook_id, n.notice_id, n.kind, n.company_id, n.state, n.attempts,
                n.last_status_code, n.last_error, n.queued_at, n.last_attempt_at,
                n.next_attempt_at, n.settled_at
            from public.whatsapp_webhook_deliveries as n
            where n.webhook_id = p_webhook_id
                and n.state = s.state
                and n.id < coalesce(p_before, 9223372036854775807)
            order by n.id desc
            limit least(greatest(coalesce(p_limit, 50), 1), 200)
        ) as d
        order by d.id desc
        limit least(greatest(coalesce(p_limit, 50), 1), 200)
    ) as f;
$function$;

comment on function public.whatsapp_list_deliveries_v1(uuid, text, bigint, integer) is
    'The delivery log of a webhook without what was told, newest first, at most 200; p_before is '
    'an id to go on from.';

create function public.whatsapp_count_deliveries_v1() returns jsonb
language sql stable
set search_path = ''
as $function$
    select coalesce(jsonb_agg(jsonb_build_array(c.webhook_id, c.state, c.count)), '[]')
    from (
        select d.webhook_id, d.state, count(*) as count
        from public.whatsapp_webhook_deliveries as d
        group by d.webhook_id, d.state
    ) as c;
$function$;

comment on function public.whatsapp_count_deliveries_v1() is
    'How many deliveries each webhook has in each state, [[webhook_id, state, count]].';

create function public.whatsapp_time_text_v1(p_time timestamptz) returns text
language sql stable
set search_path = ''
as $function$
    select replace(
        to_char(p_time at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), '.000000', ''
    ) || 'Z';
$function$;

comment on function public.whatsapp_time_text_v1(timestamptz) is
    'A time as the API writes it: ISO 8601, UTC, with Z.';

create function public.whatsapp_status_data_v1(p_row public.whatsapp_connections) returns jsonb
language sql stable
set search_path = ''
as $function$
    select jsonb_build_object(
        'company_id', p_row.company_id,
        'status', p_row.status,
        'is_connected', p_row.status = 'connected',
        'message', p_row.message,
        'reason', p_row.reason,
        'user_action', p_row.user_action,
        'phone_number', p_row.phone_number,
        'push_name', p_row.push_name,
        'last_connected_at', public.whatsapp_time_text_v1(p_row.last_connected_at),
        'retry_at', public.whatsapp_time_text_v1(p_row.retry_at),
        'qr_expires_at', public.whatsapp_time_text_v1(p_row.qr_expires_at)
    );
$function$;

comment on function public.whatsapp_status_data_v1(public.whatsapp_connections) is
    'What GET /status answers for this row.';

create function public.whatsapp_queue_status_v1(
    p_transition jsonb,
    p_before public.whatsapp_connections,
    p_after public.whatsapp_connections
) returns void
language plpgsql
set search_path = ''
as $function$
declare
    v_data constant jsonb := public.whatsapp_status_data_v1(p_after);
begin
    if v_data = public.whatsapp_status_data_v1(p_before) then
        return;
    end if;
    perform public.whatsapp_queue_notice_v1(
        (p_transition ->> 'id')::uuid,
        'session.status',
        p_after.company_id,
        (p_transition ->> 'occurred_at')::timestamptz,
        v_data || jsonb_build_object(
            'previous_status', p_transition ->> 'from_status', 'event', p_transition ->> 'event'
        )
    );
exception when data_exception or integrity_constraint_violation then
    -- To the caller these mean that the transition itself is invalid, and it would be dropped.
    raise exception using
        errcode = 'internal_error',
        message = 'the notice of a transition could not be queued: ' || sqlerrm;
end
$function$;

comment on function public.whatsapp_queue_status_v1(
    jsonb, public.whatsapp_connections, public.whatsapp_connections
) is
    'Queues the notice of a transition if it changed what GET /status answers. A failure fails the '
    'recording with it. The caller holds the lock of the company.';

-- The same function as before, and now it queues what webhooks want to hear.
create or replace function public.whatsapp_apply_transition_v1(p_transition jsonb) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    v_id constant uuid := (p_transition ->> 'id')::uuid;
    v_company_id constant uuid := (p_transition ->> 'company_id')::uuid;
    v_version constant bigint := (p_transition ->> 'version')::bigint;
    v_sets_desired_state constant boolean :=
        coalesce((p_transition ->> 'sets_desired_state')::boolean, false);
    v_row public.whatsapp_connections;
    v_before public.whatsapp_connections;
    v_after public.whatsapp_connections;
    v_is_heard boolean;
    v_last_version constant bigint := public.whatsapp_last_version_v1(v_company_id);
begin
    v_row := jsonb_populate_record(null::public.whatsapp_connections, p_transition -> 'row');

    insert into public.whatsapp_status_events
        (id, company_id, version, from_status, to_status, reason, message, event, owner_id,
         occurred_at)
    values (
        v_id,
        v_company_id,
        v_version,
        p_transition ->> 'from_status',
        v_row.status,
        v_row.reason,
        v_row.message,
        p_transition ->> 'event',
        (p_transition ->> 'owner_id')::uuid,
        (p_transition ->> 'occurred_at')::timestamptz
    )
    on conflict (id) do nothing;

    if not found then
        return jsonb_build_object('outcome', 'duplicate', 'row_version', v_last_version);
    end if;
    if v_version <= v_last_version then
        return jsonb_build_object('outcome', 'stale', 'row_version', v_last_version);
    end if;

    v_is_heard := exists (select 1 from public.whatsapp_webhooks as w where w.enabled);
    if v_is_heard then
        select * into v_before
        from public.whatsapp_connections as c
        where c.company_id = v_company_id;
    end if;

    insert into public.whatsapp_connections as c (
        company_id, user_id, desired_state, status, reason, message, user_action, degraded,
        jid, lid, phone_number, push_name, platform,
        last_connected_at, last_disconnected_at, last_event_at,
        retry_at, qr_expires_at, status_deadline_at, restore_attempts, version
    )
    values (
        v_company_id, v_row.user_id, v_row.desired_state, v_row.status, v_row.reason,
        v_row.message, v_row.user_action, coalesce(v_row.degraded, false),
        v_row.jid, v_row.lid, v_row.phone_number, v_row.push_name, v_row.platform,
        v_row.last_connected_at, v_row.last_disconnected_at, v_row.last_event_at,
        v_row.retry_at, v_row.qr_expires_at, v_row.status_deadline_at,
        coalesce(v_row.restore_attempts, 0), v_version
    )
    on conflict (company_id) do update
    set user_id = excluded.user_id,
        -- The CRM may have changed it in the meantime: only a transition that means to sets it.
        desired_state = case
            when v_sets_desired_state then excluded.desired_state else c.desired_state
        end,
        status = excluded.status,
        reason = excluded.reason,
        message = excluded.message,
        user_action = excluded.user_action,
        degraded = excluded.degraded,
        jid = excluded.jid,
        lid = excluded.lid,
        phone_number = excluded.phone_number,
        push_name = excluded.push_name,
        platform = excluded.platform,
        last_connected_at = excluded.last_connected_at,
        last_disconnected_at = excluded.last_disconnected_at,
        last_event_at = excluded.last_event_at,
        retry_at = excluded.retry_at,
        qr_expires_at = excluded.qr_expires_at,
        status_deadline_at = excluded.status_deadline_at,
        restore_attempts = excluded.restore_attempts,
        version = excluded.version,
        updated_at = clock_timestamp()
    returning c.* into v_after;

    if v_is_heard then
        perform public.whatsapp_queue_status_v1(p_transition, v_before, v_after);
    end if;
    return jsonb_build_object('outcome', 'applied', 'row_version', v_version);
end
$function$;

comment on function public.whatsapp_apply_transition_v1(jsonb) is
    'Records one transition, and queues it for webhooks if it changed what GET /status answers; '
    'the caller holds the lock of its company.';

revoke all on function
    public.whatsapp_list_webhooks_v1(),
    public.whatsapp_remove_webhook_v1(uuid),
    public.whatsapp_lock_companies_v1(uuid[]),
    public.whatsapp_queue_notice_v1(uuid, text, uuid, timestamptz, jsonb),
    public.whatsapp_read_notice_v1(jsonb),
    public.whatsapp_enqueue_notices_v1(jsonb),
    public.whatsapp_claim_deliveries_v1(uuid, integer, integer, double precision, uuid[]),
    public.whatsapp_settle_deliveries_v1(jsonb),
    public.whatsapp_redeliver_v1(uuid, bigint[], bigint),
    public.whatsapp_list_deliveries_v1(uuid, text, bigint, integer),
    public.whatsapp_count_deliveries_v1(),
    public.whatsapp_time_text_v1(timestamptz),
    public.whatsapp_status_data_v1(public.whatsapp_connections),
    public.whatsapp_queue_status_v1(
        jsonb, public.whatsapp_connections, public.whatsapp_connections
    )
    from public, anon, authenticated, service_role;
grant execute on function
    public.whatsapp_list_webhooks_v1(),
    public.whatsapp_remove_webhook_v1(uuid),
    public.whatsapp_lock_companies_v1(uuid[]),
    public.whatsapp_queue_notice_v1(uuid, text, uuid, timestamptz, jsonb),
    public.whatsapp_read_notice_v1(jsonb),
    public.whatsapp_enqueue_notices_v1(jsonb),
    public.whatsapp_claim_deliveries_v1(uuid, integer, integer, double precision, uuid[]),
    public.whatsapp_settle_deliveries_v1(jsonb),
    public.whatsapp_redeliver_v1(uuid, bigint[], bigint),
    public.whatsapp_list_deliveries_v1(uuid, text, bigint, integer),
    public.whatsapp_count_deliveries_v1(),
    public.whatsapp_time_text_v1(timestamptz),
    public.whatsapp_status_data_v1(public.whatsapp_connections),
    public.whatsapp_queue_status_v1(
        jsonb, public.whatsapp_connections, public.whatsapp_connections
    )
    to service_role;

notify pgrst, 'reload schema';

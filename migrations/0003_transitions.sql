-- How the service writes what happened, and how a company is forgotten.
--
-- Both functions take one advisory lock a company, in the order of the lock numbers, so a late
-- transition and a deletion of the same company are always seen one after the other. Lease rows
-- are not used for this: a slow batch must not delay the renewal of a lease.

create function public.whatsapp_company_lock_v1(p_company_id uuid) returns bigint
language sql immutable
set search_path = ''
as $function$
    select hashtextextended('whatsapp_connections ' || p_company_id::text, 0);
$function$;

comment on function public.whatsapp_company_lock_v1(uuid) is
    'The number of the advisory lock that orders the writes to a company''s connection.';

create function public.whatsapp_apply_transition_v1(p_transition jsonb) returns jsonb
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
        updated_at = clock_timestamp();
    return jsonb_build_object('outcome', 'applied', 'row_version', v_version);
end
$function$;

comment on function public.whatsapp_apply_transition_v1(jsonb) is
    'Records one transition; the caller holds the lock of its company.';

create function public.whatsapp_invalid_receipt_v1(p_error text) returns jsonb
language sql immutable
set search_path = ''
as $function$
    select jsonb_build_object('outcome', 'invalid', 'row_version', 0, 'error', p_error);
$function$;

comment on function public.whatsapp_invalid_receipt_v1(text) is
    'The answer for a transition that cannot be recorded.';

create function public.whatsapp_record_transitions_v1(p_transitions jsonb) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    v_receipts jsonb[] := '{}';
    v_locks bigint[] := '{}';
    v_transition jsonb;
    v_receipt jsonb;
    v_lock bigint;
    v_index integer;
begin
    if jsonb_array_length(p_transitions) > 1000 then
        raise exception using
            errcode = 'program_limit_exceeded',
            message = 'at most 1000 transitions a call';
    end if;

    for v_transition in select e.value from jsonb_array_elements(p_transitions) as e loop
        v_lock := null;
        v_receipt := null;
        begin
            v_lock := public.whatsapp_company_lock_v1((v_transition ->> 'company_id')::uuid);
        exception when data_exception then
            v_receipt := public.whatsapp_invalid_receipt_v1(sqlerrm);
        end;
        v_locks := array_append(v_locks, v_lock);
        v_receipts := array_append(v_receipts, v_receipt);
    end loop;

    for v_lock in
        select distinct wanted.number
        from unnest(v_locks) as wanted (number)
        where wanted.number is not null
        order by wanted.number
    loop
        perform pg_advisory_xact_lock(v_lock);
    end loop;

    for v_index in 0 .. jsonb_array_length(p_transitions) - 1 loop
        v_transition := p_transitions -> v_index;
        v_receipt := v_receipts[v_index + 1];
        if v_receipt is null then
            -- Only what is wrong with the element itself becomes its receipt; a deadlock or a
            -- full disk fails the call, which is then repeated.
            begin
                v_receipt := public.whatsapp_apply_transition_v1(v_transition);
            exception when data_exception or integrity_constraint_violation then
                v_receipt := public.whatsapp_invalid_receipt_v1(sqlerrm);
            end;
        end if;
        v_receipts[v_index + 1] := v_receipt || jsonb_build_object(
            'index', v_index, 'id', v_transition ->> 'id'
        );
    end loop;
    return to_jsonb(v_receipts);
end
$function$;

comment on function public.whatsapp_record_transitions_v1(jsonb) is
    'Records transitions in array order, each once: [{id, company_id, version, occurred_at, '
    'event, from_status, owner_id, sets_desired_state, row: {columns of '
    'whatsapp_connections}}], at most 1000. Returns for each {index, id, outcome, row_version, '
    'error}. applied: history and row; duplicate: this id was recorded before; stale: history '
    'only, the row or the deletion of the company is newer (row_version); invalid: nothing, '
    'error says why. Texts with a NUL character or half a surrogate pair are no JSON to '
    'Postgres and fail the call: leave them out.';

create function public.whatsapp_forget_company_v1(p_company_id uuid, p_version bigint)
returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    v_row_version bigint;
    v_lease public.whatsapp_leases;
begin
    if p_company_id is null or p_version is null or p_version < 0 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'p_company_id and p_version must be given, p_version not below 0';
    end if;
    perform pg_advisory_xact_lock(public.whatsapp_company_lock_v1(p_company_id));

    insert into public.whatsapp_leases (company_id) values (p_company_id)
    on conflict (company_id) do nothing;
    select * into v_lease
    from public.whatsapp_leases as l
    where l.company_id = p_company_id
    for update;
    select c.version into v_row_version
    from public.whatsapp_connections as c
    where c.company_id = p_company_id;

    if v_row_version > p_version then
        return jsonb_build_object(
            'outcome', 'stale', 'row_version', v_row_version, 'epoch', v_lease.epoch
        );
    end if;
    if v_lease.forgotten_version >= p_version then
        return jsonb_build_object(
            'outcome', 'duplicate', 'row_version', v_lease.forgotten_version,
            'epoch', v_lease.epoch
        );
    end if;

    delete from public.whatsapp_connections as c where c.company_id = p_company_id;
    update public.whatsapp_leases as l
    set owner_id = null,
        epoch = l.epoch + 1,
        expires_at = clock_timestamp(),
        forgotten_version = p_version
    where l.company_id = p_company_id;
    return jsonb_build_object(
        'outcome', 'forgotten', 'row_version', p_version, 'epoch', v_lease.epoch + 1
    );
end
$function$;

comment on function public.whatsapp_forget_company_v1(uuid, bigint) is
    'Deletes a company''s connection and ends its lease under a higher epoch; the history stays. '
    'No transition up to p_version brings the row back. Returns {outcome, row_version, epoch}; '
    'forgotten: done now; duplicate: done before; stale: nothing was done, the row is newer.';

revoke all on function
    public.whatsapp_company_lock_v1(uuid),
    public.whatsapp_apply_transition_v1(jsonb),
    public.whatsapp_invalid_receipt_v1(text),
    public.whatsapp_record_transitions_v1(jsonb),
    public.whatsapp_forget_company_v1(uuid, bigint)
    from public, anon, authenticated, service_role;
grant execute on function
    public.whatsapp_company_lock_v1(uuid),
    public.whatsapp_apply_transition_v1(jsonb),
    public.whatsapp_invalid_receipt_v1(text),
    public.whatsapp_record_transitions_v1(jsonb),
    public.whatsapp_forget_company_v1(uuid, bigint)
    to service_role;

notify pgrst, 'reload schema';

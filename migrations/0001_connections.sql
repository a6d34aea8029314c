-- The state of every company's session, its history, and the ledger of migrations.

create table if not exists public.whatsapp_migrations (
    version text primary key check (version ~ '^[0-9]{4}$'),
    name text not null,
    checksum text not null,
    applied_at timestamptz not null default clock_timestamp()
);

comment on table public.whatsapp_migrations is
    'Migrations of crm_whatsapp that were applied, each once and never edited afterwards.';
comment on column public.whatsapp_migrations.version is 'Number of the migration file, 4 digits.';
comment on column public.whatsapp_migrations.checksum is
    'SHA-256 of the file as it was applied; a different file under this number is refused.';

create table public.whatsapp_connections (
    company_id uuid primary key,
    user_id text,
    desired_state text not null default 'stop' check (desired_state in ('run', 'stop')),
    status text not null default 'disconnected' check (
        status in (
            'disconnected', 'connecting', 'awaiting_scan', 'connected',
            'logged_out', 'banned', 'failed'
        )
    ),
    reason text not null default 'never-connected',
    message text not null default 'Not connected. Click "Connect WhatsApp" to start.',
    user_action text not null default 'connect',
    degraded boolean not null default false,
    jid text,
    lid text,
    phone_number text,
    push_name text,
    platform text,
    last_connected_at timestamptz,
    last_disconnected_at timestamptz,
    last_event_at timestamptz,
    retry_at timestamptz,
    qr_expires_at timestamptz,
    status_deadline_at timestamptz,
    restore_attempts integer not null default 0 check (restore_attempts >= 0),
    version bigint not null default 0 check (version >= 0),
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp()
);

comment on table public.whatsapp_connections is
    'One row a company: what people want of its WhatsApp session and what is seen of it. '
    'The CRM may write desired_state; everything else is written by '
    'whatsapp_record_transitions_v1.';
comment on column public.whatsapp_connections.user_id is 'Who in the CRM asked to connect last.';
comment on column public.whatsapp_connections.desired_state is
    'run: keep the session connected; stop: leave it alone until somebody connects it.';
comment on column public.whatsapp_connections.status is 'What the session is seen to be.';
comment on column public.whatsapp_connections.reason is 'Why, as a stable code for programs.';
comment on column public.whatsapp_connections.message is 'The same for people.';
comment on column public.whatsapp_connections.user_action is
    'What the person in front of the CRM should do: none, connect, scan, retry, wait, upgrade, '
    'contact-support.';
comment on column public.whatsapp_connections.degraded is
    'Connected, but the link does not answer as it should.';
comment on column public.whatsapp_connections.jid is 'The linked device at WhatsApp.';
comment on column public.whatsapp_connections.lid is 'The same device under its hidden identity.';
comment on column public.whatsapp_connections.phone_number is 'E.164, with the plus sign.';
comment on column public.whatsapp_connections.push_name is 'The name the account shows to others.';
comment on column public.whatsapp_connections.platform is 'The kind of phone it is linked to.';
comment on column public.whatsapp_connections.retry_at is
    'No attempt is made before; set while waiting after an error or during a ban.';
comment on column public.whatsapp_connections.qr_expires_at is
    'When the QR or pairing code on display runs out.';
comment on column public.whatsapp_connections.status_deadline_at is
    'By when connecting or awaiting_scan has to lead somewhere.';
comment on column public.whatsapp_connections.restore_attempts is
    'Attempts spent since the session was last connected.';
comment on column public.whatsapp_connections.version is
    'Rises with every transition of the company; an older one never replaces a newer one.';

create table public.whatsapp_status_events (
    id uuid primary key,
    company_id uuid not null,
    version bigint not null,
    from_status text check (
        from_status in (
            'disconnected', 'connecting', 'awaiting_scan', 'connected',
            'logged_out', 'banned', 'failed'
        )
    ),
    to_status text not null check (
        to_status in (
            'disconnected', 'connecting', 'awaiting_scan', 'connected',
            'logged_out', 'banned', 'failed'
        )
    ),
    reason text not null,
    message text not null,
    event text not null,
    owner_id uuid,
    occurred_at timestamptz not null,
    recorded_at timestamptz not null default clock_timestamp()
);

create index whatsapp_status_events_company_idx
    on public.whatsapp_status_events (company_id, version desc);

comment on table public.whatsapp_status_events is
    'Every transition of every session, in order of version within a company. Append-only: it '
    'outlives the connection row.';
comment on column public.whatsapp_status_events.id is
    'Made by the service before the first attempt to write, so that a repeated write is known.';
comment on column public.whatsapp_status_events.event is 'What caused the transition.';
comment on column public.whatsapp_status_events.owner_id is 'The instance that saw it.';
comment on column public.whatsapp_status_events.occurred_at is 'On the clock of that instance.';
comment on column public.whatsapp_status_events.recorded_at is 'On the clock of the database.';

alter table public.whatsapp_migrations enable row level security;
alter table public.whatsapp_connections enable row level security;
alter table public.whatsapp_status_events enable row level security;

-- Older projects grant new tables to these roles by default, newer ones to nobody.
revoke all on table
    public.whatsapp_migrations, public.whatsapp_connections, public.whatsapp_status_events
    from public, anon, authenticated, service_role;
grant select on table public.whatsapp_migrations to service_role;
grant select, insert, update, delete on table public.whatsapp_connections to service_role;
grant select, insert on table public.whatsapp_status_events to service_role;

create function public.whatsapp_schema_version_v1() returns integer
language sql stable
set search_path = ''
as $function$
    select coalesce(max(m.version), '0')::integer from public.whatsapp_migrations as m;
$function$;

comment on function public.whatsapp_schema_version_v1() is
    'The number of the newest applied migration, 0 when none is recorded.';

revoke all on function public.whatsapp_schema_version_v1()
    from public, anon, authenticated, service_role;
grant execute on function public.whatsapp_schema_version_v1() to service_role;

notify pgrst, 'reload schema';

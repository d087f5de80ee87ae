-- 10_ate_file_system.sql: the tables of the .ate file system, who may read them, and the plan data.
--
-- Owns plans and their aliases, templates, files and their former versions, downloads, the generation queue and its
-- history, and the workers' list; ties subscriptions.plan_id to plans.name. Works over a vendor's devices,
-- subscriptions and licenses with rows in them, drops nothing, deletes nothing. Must not decide anything: who is
-- entitled and what a job may do next is in 11_ate_helper_functions.sql. Safe to run again; pastes whole into an SQL
-- editor.

do $$ begin
  -- Rather fail and be run again than stand in the way of a purchase. Notices of what is there already help nobody.
  perform set_config('lock_timeout', '5s', true), set_config('client_min_messages', 'warning', true);
end $$;

-- What this database has -------------------------------------------------------------------------------------------

-- Each file from here on ends by recording itself, so that one that was pasted counts as one that `atelier migrate`
-- ran: by its edition, which tells an older file that somebody pastes later from a newer one, and the checksum of the
-- file without its last line.
create or replace function public.record_ate_migration(file text, sum text) returns text
language plpgsql set search_path = '' as $$
declare
  api text;
begin
  create table if not exists public.atelier_migrations (
    name text primary key,
    checksum text not null,
    previous text[] not null default '{}',
    applied_at timestamptz not null default now()
  );
  alter table public.atelier_migrations enable row level security;
  revoke all on table public.atelier_migrations from public;
  for api in
    select r.rolname from pg_catalog.pg_roles r where r.rolname in ('anon', 'authenticated', 'service_role')
  loop
    execute format('revoke all on table public.atelier_migrations from %I', api);
  end loop;
  grant select on table public.atelier_migrations to service_role;
  drop policy if exists atelier_migrations_service on public.atelier_migrations;
  create policy atelier_migrations_service on public.atelier_migrations for select to service_role using (true);
  insert into public.atelier_migrations as m (name, checksum) values (file, sum)
    on conflict (name) do update set previous = array_remove(m.previous || m.checksum, excluded.checksum),
      checksum = excluded.checksum, applied_at = now();
  return file || ' is recorded';
end $$;
revoke all on function public.record_ate_migration(text, text) from public, anon, authenticated, service_role;

-- Plans -------------------------------------------------------------------------------------------------------------

create table if not exists public.plans (
  id uuid primary key default gen_random_uuid(),
  name varchar(50) not null unique,
  display_name varchar(100) not null,
  price_jpy integer not null check (price_jpy >= 0),
  tools jsonb not null default '[]' check (jsonb_typeof(tools) = 'array'),
  max_devices integer not null default 1 check (max_devices >= 0),
  trial_days integer not null default 3 check (trial_days >= 0),
  is_active boolean not null default true,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

-- Prices and tools belong to the operator once they are here: a second run does not touch them.
insert into public.plans (name, display_name, price_jpy, tools, max_devices, trial_days) values
  ('starter', '⚡ STARTER', 2980, '["timeline", "basic_analysis"]', 1, 3),
  ('pro', '🚀 PRO', 6980, '["timeline", "follow", "unfollow", "target", "video_training", "advanced_analysis"]', 3, 3),
  ('max', '👑 MAX', 15800,
   '["timeline", "basic_analysis", "follow", "unfollow", "target", "video_training", "advanced_analysis", "unlimited",
     "consultant", "24h_support", "security"]', 10, 3)
on conflict (name) do nothing;

-- Plan ids of former times. Rows that carry one stay as they are; code that still writes one is translated (below).
create table if not exists public.plan_aliases (
  alias text primary key,
  plan_name varchar(50) not null references public.plans (name) on update cascade
);

insert into public.plan_aliases (alias, plan_name) values
  ('basic', 'starter'), ('premium', 'pro'), ('enterprise', 'max'), ('socialtouch_monthly_2980', 'starter')
on conflict (alias) do nothing;

-- Templates ---------------------------------------------------------------------------------------------------------

-- One row per name: the version that is built now.
create table if not exists public.ate_templates (
  id uuid primary key default gen_random_uuid(),
  name varchar(100) not null unique check (name ~ '^[a-z0-9_-]{1,64}$'),
  version varchar(20) not null,
  template_path varchar(255) not null,
  file_structure jsonb not null default '[]',
  required_variables jsonb not null default '[]',
  is_active boolean not null default true,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
alter table public.ate_templates
  add column if not exists description text,
  add column if not exists runtime text not null default 'autotouch',
  add column if not exists container text not null default 'ate1',
  add column if not exists content_sha256 varchar(64);

-- What was published, for ever: the same version never gets other bytes.
create table if not exists public.ate_template_versions (
  template_id uuid not null references public.ate_templates (id),
  version varchar(20) not null,
  template_path varchar(255) not null,
  file_structure jsonb not null,
  required_variables jsonb not null,
  description text,
  runtime text not null,
  container text not null,
  content_sha256 varchar(64) not null,
  published_at timestamptz not null default now(),
  primary key (template_id, version)
);

-- Files -------------------------------------------------------------------------------------------------------------

-- One row per device and template, for as long as both live: a link stays good and its download count goes on.
create table if not exists public.ate_files (
  id uuid primary key default gen_random_uuid(),
  device_id uuid not null references public.devices (id) on delete cascade,
  template_id uuid not null references public.ate_templates (id),
  plan_id uuid references public.plans (id),
  filename varchar(255) not null,
  file_path varchar(500) not null,
  file_size_bytes bigint not null check (file_size_bytes >= 0),
  checksum varchar(64) not null,
  encryption_key_hash varchar(64) not null,
  generated_variables jsonb not null default '{}',
  generation_status varchar(20) not null default 'success' check (generation_status in ('pending', 'success',
    'failed')),
  download_count integer not null default 0,
  expires_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (device_id, template_id)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
alter table public.ate_files
  add column if not exists artifact_id uuid not null default gen_random_uuid(),
  add column if not exists generation integer not null default 1,
  add column if not exists template_version varchar(20),
  add column if not exists container text not null default 'ate1',
  add column if not exists tools jsonb not null default '[]',
  add column if not exists master_key_id text,
  add column if not exists signer_id text,
  add column if not exists is_active boolean not null default true,
  add column if not exists queue_id uuid,
  add column if not exists last_downloaded_at timestamptz;

create index if not exists ate_files_expiry on public.ate_files (expires_at) where is_active;

-- Former objects of a file: inactive at once, their bytes deleted by the keeper after a grace period (purged_at).
create table if not exists public.ate_file_versions (
  id uuid primary key default gen_random_uuid(),
  ate_file_id uuid not null,
  device_id uuid not null, -- goes with its device, by a trigger: a reference would be checked with every file
  template_id uuid not null,
  plan_id uuid,
  artifact_id uuid not null,
  generation integer not null,
  template_version varchar(20),
  container text not null,
  tools jsonb not null default '[]',
  filename varchar(255) not null,
  file_path varchar(500) not null,
  file_size_bytes bigint not null,
  checksum varchar(64) not null,
  encryption_key_hash varchar(64) not null,
  master_key_id text,
  is_active boolean not null default false check (not is_active),
  expires_at timestamptz,
  created_at timestamptz not null,
  retired_at timestamptz not null default now(),
  purged_at timestamptz
);
alter table public.ate_file_versions drop constraint if exists ate_file_versions_device_id_fkey;
create index if not exists ate_file_versions_device on public.ate_file_versions (device_id, retired_at);
create index if not exists ate_file_versions_purge on public.ate_file_versions (retired_at) where purged_at is null;

create table if not exists public.download_history (
  id uuid primary key default gen_random_uuid(),
  ate_file_id uuid not null references public.ate_files (id) on delete cascade,
  device_id uuid not null references public.devices (id) on delete cascade,
  download_ip inet,
  user_agent text,
  status varchar(20) not null default 'completed' check (status in ('completed', 'failed')),
  bytes_downloaded bigint not null default 0 check (bytes_downloaded >= 0),
  created_at timestamptz not null default now()
);
alter table public.download_history
  add column if not exists reached_end boolean not null default true,
  -- Whose download it was stays true when the device is somebody else's. Not known yet in rows of before: those are its
  -- owner's, who sees them once the keeper has said so (14_ate_keeper.sql). Here that would take too long.
  add column if not exists user_id uuid,
  -- Why the service itself cut it, where it did.
  add column if not exists reason text;
create index if not exists download_history_device on public.download_history (device_id, created_at desc);
create index if not exists download_history_file on public.download_history (ate_file_id);

-- Queue -------------------------------------------------------------------------------------------------------------

create table if not exists public.file_generation_queue (
  id uuid primary key default gen_random_uuid(),
  device_id uuid not null references public.devices (id) on delete cascade,
  template_id uuid not null references public.ate_templates (id),
  priority integer not null default 5 check (priority between 1 and 10),
  status varchar(20) not null default 'queued'
    check (status in ('queued', 'processing', 'completed', 'failed', 'cancelled')),
  generation_params jsonb not null default '{}',
  retry_count integer not null default 0 check (retry_count >= 0),
  max_retries integer not null default 3 check (max_retries >= 0),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
) with (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.05);
alter table public.file_generation_queue
  add column if not exists reason text not null default 'request',
  -- When it may run, and where it stands: run_after plus half a minute per step of priority, so that 10 waits 270
  -- seconds at most for what came later, and 1 overtakes a long line of 5 for two minutes. The clock, not now(): rows
  -- of one statement have places of their own.
  add column if not exists run_after timestamptz not null default clock_timestamp(),
  add column if not exists sort_key timestamptz not null default now(),
  -- The fence: one more with every claim, never less.
  add column if not exists attempt integer not null default 0,
  add column if not exists worker_id text,
  add column if not exists lease_until timestamptz,
  -- What the last claim found and gave to the worker.
  add column if not exists device_hash text,
  add column if not exists plan_id uuid,
  add column if not exists plan_tools jsonb,
  add column if not exists template_version varchar(20),
  add column if not exists container text,
  add column if not exists generation integer,
  add column if not exists license_expires_at timestamptz,
  -- What is known about the run.
  add column if not exists stage text,
  add column if not exists verdict text,
  add column if not exists usage jsonb,
  add column if not exists error_code text,
  add column if not exists error_message text,
  add column if not exists claimed_at timestamptz,
  add column if not exists finished_at timestamptz;

do $$ begin
  if not exists (select from pg_constraint where conname = 'file_generation_queue_stage_check'
                 and conrelid = 'public.file_generation_queue'::regclass) then
    alter table public.file_generation_queue add constraint file_generation_queue_stage_check
      check (stage in ('claimed', 'rendering', 'checking', 'sealing', 'storing'));
  end if;
end $$;

-- A claim walks this one from its start; run_after is in it so that waiting rows cost no visit to the table.
create index if not exists file_generation_queue_ready on public.file_generation_queue (sort_key, run_after)
  where status = 'queued';
create unique index if not exists file_generation_queue_one_queued on public.file_generation_queue (device_id,
  template_id)
  where status = 'queued';
create unique index if not exists file_generation_queue_one_processing
  on public.file_generation_queue (device_id, template_id) where status = 'processing';
-- A lease is there exactly while a job is processing. Said in other words than above, so that a probe for a device
-- cannot become a walk over this one: to a planner without statistics both are small.
create index if not exists file_generation_queue_lease on public.file_generation_queue (lease_until, worker_id)
  where lease_until is not null;
create index if not exists file_generation_queue_finished on public.file_generation_queue (finished_at)
  where finished_at is not null;
create index if not exists file_generation_queue_device on public.file_generation_queue (device_id, created_at desc);

-- A job's id begins with its time (UUID version 7), so that jobs of one batch are neighbours in the index.
create or replace function public.ate_job_id() returns uuid
language plpgsql volatile set search_path = '' as $$
begin
  return encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
    placing substring(int8send(floor(extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1 for 6),
    52, 1), 53, 1), 'hex')::uuid;
end $$;

alter table public.file_generation_queue
  alter column id set default public.ate_job_id(),
  -- The clock: of a device's jobs the newest is the one that was queued last, however long its transaction took.
  alter column created_at set default clock_timestamp(),
  alter column updated_at set default clock_timestamp(); -- never before it

-- Rows inserted by hand have their place in the line too.
create or replace function public.ate_place_in_queue() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.sort_key := new.run_after + new.priority * interval '30 seconds';
  return new;
end $$;

create or replace trigger ate_place_in_queue before insert or update of priority, run_after
  on public.file_generation_queue for each row execute function public.ate_place_in_queue();

-- Finished jobs move here in batches, so that the queue stays small.
create table if not exists public.file_generation_history (
  id uuid primary key,
  device_id uuid not null references public.devices (id) on delete cascade,
  template_id uuid not null,
  priority integer not null,
  status varchar(20) not null,
  reason text not null,
  generation_params jsonb not null,
  retry_count integer not null,
  max_retries integer not null,
  attempt integer not null,
  worker_id text,
  plan_id uuid,
  template_version varchar(20),
  generation integer,
  verdict text,
  usage jsonb,
  error_code text,
  error_message text,
  created_at timestamptz not null,
  claimed_at timestamptz,
  finished_at timestamptz not null
);
create index if not exists file_generation_history_device
  on public.file_generation_history (device_id, finished_at desc);
create index if not exists file_generation_history_finished on public.file_generation_history (finished_at);

-- One row per start of a worker. lock_held: its session lock was taken and tells whether it lives; false: only leases
-- do (behind a pooler that shares sessions, or with atelier.worker_lock = off).
create table if not exists public.ate_workers (
  worker_id text primary key,
  host text,
  pid integer,
  backend_pid integer,
  lock_held boolean not null default false,
  started_at timestamptz not null default now(),
  last_seen timestamptz not null default now(),
  gone_at timestamptz,
  gone_reason text
) with (fillfactor = 50);
-- Where the line began when this worker last looked from its start: who counts places need not walk what is dead.
alter table public.ate_workers add column if not exists line_start timestamptz;

-- The vendor's tables -----------------------------------------------------------------------------------------------

-- A device's rank among its user's devices is asked with every claim.
do $$ begin
  if not exists (
    select from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
    where i.indrelid = 'public.devices'::regclass and a.attname = 'user_id' and i.indpred is null
  ) then
    create index devices_user_id on public.devices (user_id);
  end if;
end $$;

alter table public.subscriptions add column if not exists plan_id text;

-- Code that still writes a former plan id goes on working: the reference sees the plan's name.
create or replace function public.ate_translate_plan() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if tg_op = 'UPDATE' and new.plan_id is not distinct from old.plan_id then
    return new;
  end if;
  -- A plan that is there under that very name is what is meant, as ate_entitlement has it.
  if not exists (select from public.plans p where p.name = new.plan_id) then
    new.plan_id := coalesce((select a.plan_name from public.plan_aliases a where a.alias = new.plan_id), new.plan_id);
  end if;
  return new;
end $$;

create or replace trigger ate_translate_plan before insert or update of plan_id
  on public.subscriptions for each row execute function public.ate_translate_plan();

-- NOT VALID: rows with a former id, or with none that is known, stay. It is validated as soon as no such row is left.
do $$
declare
  validated boolean;
begin
  select convalidated into validated from pg_constraint
    where conrelid = 'public.subscriptions'::regclass and conname = 'subscriptions_plan_id_plans_name_fkey';
  if not found then
    alter table public.subscriptions add constraint subscriptions_plan_id_plans_name_fkey
      foreign key (plan_id) references public.plans (name) on update cascade not valid;
    validated := false;
  end if;
  if not validated and not exists (
    select from public.subscriptions s
    where s.plan_id is not null and not exists (select from public.plans p where p.name = s.plan_id)
  ) then
    alter table public.subscriptions validate constraint subscriptions_plan_id_plans_name_fkey;
  end if;
end $$;

-- A deleted device takes its jobs and files along. The jobs first: a worker that completes one locks in this order
-- too.
create or replace function public.ate_lock_jobs() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  perform 1 from public.file_generation_queue q where q.device_id = old.id order by q.id for update;
  return old;
end $$;

create or replace trigger ate_lock_jobs before delete
  on public.devices for each row execute function public.ate_lock_jobs();

-- None comes after this: its job is locked, and gone when the lock is.
create or replace function public.ate_forget_versions() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  delete from public.ate_file_versions v where v.device_id = old.id;
  return null;
end $$;

create or replace trigger ate_forget_versions after delete
  on public.devices for each row execute function public.ate_forget_versions();

-- A device changes hands: what the keeper has not seen to yet is the former owner's, not the new one's.
create or replace function public.ate_keep_downloads() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  update public.download_history h set user_id = old.user_id where h.device_id = old.id and h.user_id is null;
  return null;
end $$;

create or replace trigger ate_keep_downloads after update of user_id on public.devices for each row
  when (old.user_id is not null and old.user_id is distinct from new.user_id)
  execute function public.ate_keep_downloads();

-- Who may read what -------------------------------------------------------------------------------------------------

-- The caller's devices, whatever the vendor's own policies say about reading that table.
create or replace function public.ate_own_devices() returns setof uuid
language plpgsql stable security definer rows 5 set search_path = '' as $$
begin
  return query select d.id from public.devices d where d.user_id = auth.uid();
end $$;

revoke all on function public.ate_job_id(), public.ate_own_devices(), public.ate_place_in_queue(),
  public.ate_translate_plan(), public.ate_lock_jobs(), public.ate_forget_versions(), public.ate_keep_downloads()
  from public, anon, authenticated, service_role;
grant execute on function public.ate_own_devices() to authenticated;
grant execute on function public.ate_job_id() to service_role;

do $$
declare
  relation text;
begin
  foreach relation in array array['plans', 'plan_aliases', 'ate_templates', 'ate_template_versions', 'ate_files',
    'ate_file_versions', 'download_history', 'file_generation_queue', 'file_generation_history', 'ate_workers'] loop
    if not (select relrowsecurity from pg_class where oid = format('public.%I', relation)::regclass) then
      execute format('alter table public.%I enable row level security', relation);
    end if;
    -- The same rights whatever the project's default privileges gave.
    execute format('revoke all on table public.%I from public, anon, authenticated, service_role', relation);
    execute format('grant select, insert, update, delete on table public.%I to service_role', relation);
    if not exists (select from pg_policies where schemaname = 'public' and tablename = relation
                   and policyname = relation || '_service') then
      execute format('create policy %I on public.%I to service_role using (true) with check (true)',
        relation || '_service', relation);
    end if;
  end loop;

  grant select on table public.plans, public.ate_templates, public.ate_files, public.ate_file_versions,
    public.download_history, public.file_generation_queue, public.file_generation_history to authenticated;

  if not exists (select from pg_policies where schemaname = 'public' and policyname = 'plans_read') then
    create policy plans_read on public.plans for select to authenticated using (true);
  end if;
  if not exists (select from pg_policies where schemaname = 'public' and policyname = 'ate_templates_read') then
    create policy ate_templates_read on public.ate_templates for select to authenticated using (is_active);
  end if;
  -- An array from a subquery is computed once and may drive an index; IN (…) would be a filter over every row.
  foreach relation in array array['ate_files', 'ate_file_versions', 'file_generation_queue',
    'file_generation_history'] loop
    if not exists (select from pg_policies where schemaname = 'public' and tablename = relation
                   and policyname = relation || '_own') then
      execute format('create policy %I on public.%I for select to authenticated
        using (device_id = any (array(select public.ate_own_devices())))', relation || '_own', relation);
    end if;
  end loop;
  -- By the row, not by the device, which may have had another owner then.
  if not exists (select from pg_policies where schemaname = 'public' and policyname = 'download_history_own'
                 and qual ~ 'user_id') then
    drop policy if exists download_history_own on public.download_history;
    create policy download_history_own on public.download_history for select to authenticated
      using (user_id = (select auth.uid()));
  end if;
end $$;

comment on table public.plans is 'What a customer can buy, and which tools and how many devices come with it';
comment on table public.plan_aliases is 'Plan ids of former times and the plans they stand for';
comment on table public.ate_templates is 'Templates, each with the version that is built now';
comment on table public.ate_template_versions is 'Every version that was ever published; never changed';
comment on table public.ate_files is 'The file of each device and template';
comment on table public.ate_file_versions is 'Former objects of files; their bytes go after a grace period';
comment on table public.download_history is 'A row per download response';
comment on table public.file_generation_queue is 'Jobs to do, being done and done lately';
comment on table public.file_generation_history is 'Finished jobs that have left the queue';
comment on table public.ate_workers is 'Each start of a worker, and whether it lives';
select public.record_ate_migration('10_ate_file_system.sql', '1 037e8c0bcd4a2afa5a5e334bab336753e7d4d5ac1f4c31ac3e07c9be4be64cfa');

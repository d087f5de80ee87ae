-- 00_platform.sql: what a Supabase project brings along, for a Postgres that is not one.
--
-- Owns the API roles, the schema `auth` with its four functions and its users, and the three tables that a vendor
-- already has: devices, subscriptions, licenses. Knows nothing about .ate files. In a Supabase project it sees that
-- it is not needed and changes nothing; elsewhere it adds what is missing and leaves what it finds. Safe to run
-- again.

do $platform$
declare
  trusted text;
  -- Whoever made these tables also decided who may read them.
  ours constant boolean := to_regclass('public.devices') is null and to_regclass('public.subscriptions') is null
    and to_regclass('public.licenses') is null;
begin
  if (select pg_get_userbyid(nspowner) from pg_catalog.pg_namespace where nspname = 'auth') = 'supabase_auth_admin' then
    raise notice '00_platform: this is a Supabase project, nothing to do';
    return;
  end if;
  perform pg_catalog.set_config('lock_timeout', '5s', true), pg_catalog.set_config('client_min_messages', 'warning',
    true);

  -- Roles -----------------------------------------------------------------------------------------------------------
  -- Roles belong to the cluster: another database of it may be creating the same one right now.
  for trusted in select unnest(array['anon', 'authenticated', 'service_role']) loop
    begin
      if not exists (select from pg_catalog.pg_roles where rolname = trusted) then
        execute format('create role %I nologin', trusted);
      end if;
    exception when duplicate_object or unique_violation then
      null;
    end;
  end loop;
  -- Where the migrating role may not hand out BYPASSRLS, the policies for service_role in the next file do the same
  -- work.
  begin
    if not (select rolbypassrls from pg_catalog.pg_roles where rolname = 'service_role') then
      alter role service_role bypassrls;
    end if;
  exception when insufficient_privilege then
    raise notice '00_platform: service_role works through its policies (no right to grant BYPASSRLS)';
  end;
  -- From version 16 on, who creates a role administers it but is not in it.
  for trusted in select unnest(array['anon', 'authenticated', 'service_role']) loop
    begin
      if not pg_has_role(current_user, trusted, 'usage') then
        execute format('grant %I to current_user', trusted);
      end if;
    exception when insufficient_privilege then
      raise notice '00_platform: % cannot become %', current_user, trusted;
    end;
  end loop;
  grant usage on schema public to anon, authenticated, service_role;

  -- Schema auth -----------------------------------------------------------------------------------------------------
  create schema if not exists auth;
  grant usage on schema auth to anon, authenticated, service_role;

  create table if not exists auth.users (
    id uuid primary key default gen_random_uuid(),
    email varchar(255) unique,
    aud varchar(255),
    role varchar(255),
    raw_app_meta_data jsonb,
    raw_user_meta_data jsonb,
    is_anonymous boolean not null default false,
    created_at timestamptz default now(),
    updated_at timestamptz default now()
  );
  alter table auth.users enable row level security;

  -- A setting that was local to a finished transaction reads as '' afterwards, not as NULL. Bodies in this form are
  -- bound when they are created: no search_path can bend them, and they can still be inlined.
  if to_regprocedure('auth.jwt()') is null then
    execute $f$
      create function auth.jwt() returns jsonb language sql stable return
        coalesce(nullif(current_setting('request.jwt.claim', true), ''),
                        nullif(current_setting('request.jwt.claims', true), ''))::jsonb
    $f$;
  end if;
  if to_regprocedure('auth.uid()') is null then
    execute $f$
      create function auth.uid() returns uuid language sql stable return
        coalesce(nullif(current_setting('request.jwt.claim.sub', true), ''),
                        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid
    $f$;
  end if;
  if to_regprocedure('auth.role()') is null then
    execute $f$
      create function auth.role() returns text language sql stable return
        coalesce(nullif(current_setting('request.jwt.claim.role', true), ''),
                        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role')
    $f$;
  end if;
  if to_regprocedure('auth.email()') is null then
    execute $f$
      create function auth.email() returns text language sql stable return
        coalesce(nullif(current_setting('request.jwt.claim.email', true), ''),
                        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'email')
    $f$;
  end if;
  grant execute on function auth.jwt(), auth.uid(), auth.role(), auth.email() to anon, authenticated, service_role;

  -- The vendor's tables ---------------------------------------------------------------------------------------------
  create table if not exists public.devices (
    id uuid primary key default gen_random_uuid(),
    user_id uuid references auth.users (id) on delete cascade,
    device_hash text not null unique,
    device_model text,
    status text not null default 'registered'
      check (status in ('registered', 'trial', 'active', 'expired', 'suspended')),
    trial_ends_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
  );
  create table if not exists public.subscriptions (
    id uuid primary key default gen_random_uuid(),
    device_id uuid not null unique references public.devices (id) on delete cascade,
    status text not null default 'pending'
      check (status in ('pending', 'active', 'cancelled', 'expired', 'suspended')),
    plan_id text,
    next_billing_date timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
  );
  create table if not exists public.licenses (
    id uuid primary key default gen_random_uuid(),
    device_id uuid not null unique references public.devices (id) on delete cascade,
    is_valid boolean not null default true,
    expires_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
  );

  if ours then
    alter table public.devices enable row level security;
    alter table public.subscriptions enable row level security;
    alter table public.licenses enable row level security;
    revoke all on public.devices, public.subscriptions, public.licenses from anon, authenticated;
    grant select on public.devices, public.subscriptions, public.licenses to authenticated;
    grant select, insert, update, delete on public.devices, public.subscriptions, public.licenses to service_role;
    grant select, insert, update, delete on auth.users to service_role;

    create policy devices_own on public.devices for select to authenticated
        using (user_id = (select auth.uid()));
    create policy subscriptions_own on public.subscriptions for select to authenticated
        using (device_id in (select d.id from public.devices d where d.user_id = (select auth.uid())));
    create policy licenses_own on public.licenses for select to authenticated
        using (device_id in (select d.id from public.devices d where d.user_id = (select auth.uid())));
    create policy devices_service on public.devices to service_role using (true) with check (true);
    create policy subscriptions_service on public.subscriptions to service_role using (true) with check (true);
    create policy licenses_service on public.licenses to service_role using (true) with check (true);
    create policy users_service on auth.users to service_role using (true) with check (true);
  end if;
end
$platform$;

-- 11_ate_helper_functions.sql: who is entitled, and what happens to a job from its request to its file.
--
-- Owns the one function that decides about entitlement, the functions for users (get_*, queue_ate_generation), the
-- purchase triggers, and the worker's side of the queue (claim, complete, fail, release, renew) with the rescue of
-- dead workers' jobs. Must not know how a file is made or stored. Needs 10_ate_file_system.sql; safe to run again;
-- pastes whole.
--
-- Refusals have SQLSTATEs of their own; DETAIL is a short stable word, HINT says what to do:
--   AT001  the device is unknown, or not the caller's (one and the same)
--   AT002  the device is not entitled                          DETAIL: the reason, as ate_entitlement gives it
--   AT003  the template is unknown or inactive
--   AT004  the priority is outside 1..10
--   AT005  the attempt is no longer the current one            DETAIL: stale
--   AT006  there is no such job or file                        DETAIL: unknown
--   AT007  the job is not in a state for this                  DETAIL: its status
--   AT008  an argument is malformed                            DETAIL: which one
--   AT009  another content was published under this version
--
-- Argument names are part of the interface and collide with columns: inside the functions a bare name is the column,
-- an argument is written with the function's name before it. Each statement of a VOLATILE function sees what was
-- committed before it began: several rules below rest on that (READ COMMITTED).
--
-- Nobody waits long for a lock with another one in his hands: whoever wants several, of rows that a purchase, the end
-- of a device or a colleague may hold, does so in a subtransaction under a lock_timeout of 100 ms, lets go of all of
-- them when that is over, well before Postgres looks for deadlocks (deadlock_timeout, a second), and begins again after
-- a moment, which leaves them to those who wait. So no order of a vendor's statements makes his transaction the one
-- that a deadlock ends.
--
-- Channels: ate_queue wakes workers; ate_jobs tells live views {"state": …, "ids": […]}, and they read the rows
-- themselves.

do $$ begin
  perform set_config('lock_timeout', '5s', true), set_config('client_min_messages', 'warning', true);
end $$;

-- Callers -----------------------------------------------------------------------------------------------------------

-- 'service', 'user' or 'none'. The caller is the role in force: claims are worth nothing under any other role, and
-- under SECURITY DEFINER current_user is the function's owner, whom session_user may well be.
create or replace function public.ate_caller() returns text
language plpgsql stable security definer set search_path = '' as $$
declare
  caller constant name := coalesce(nullif(nullif(current_setting('role', true), 'none'), ''), session_user);
begin
  if caller = 'authenticated' then
    return 'user';
  elsif caller = current_user or pg_has_role(caller, 'service_role', 'usage') then
    return 'service';
  elsif pg_has_role(caller, 'authenticated', 'usage') then
    return 'user';
  end if;
  return 'none';
end $$;

-- The device of that hash if the caller may know of it, else NULL.
create or replace function public.ate_find_device(device_hash text) returns uuid
language plpgsql stable security definer set search_path = '' as $$
#variable_conflict use_column
declare
  caller constant text := public.ate_caller();
begin
  return (
    select d.id from public.devices d
    where d.device_hash = ate_find_device.device_hash
      and (caller = 'service' or caller = 'user' and d.user_id = auth.uid())
  );
end $$;

-- Entitlement -------------------------------------------------------------------------------------------------------

-- What a device lacks by itself, whatever its rank; NULL when nothing. A body in this form is bound when it is created
-- and becomes part of the statement that asks, so it costs nothing there: no search_path can bend it, and none is set.
create or replace function public.ate_judge(device_hash text, device_status text, trial_ends_at timestamptz,
  subscribed boolean, subscription_status text, licensed boolean, is_valid boolean, expires_at timestamptz,
  moment timestamptz) returns text
language sql stable return
  case
    when length(device_hash) not between 1 and 128 or device_hash ~ '^[.]|[^A-Za-z0-9._-]' then 'bad_device_hash'
    when device_status = 'trial' then case when trial_ends_at > moment then null else 'trial_ended' end
    when device_status is distinct from 'active' then 'device_not_active'
    when not subscribed then 'no_subscription'
    when subscription_status is distinct from 'active' then 'subscription_not_active'
    when not licensed then 'no_licence'
    when is_valid is not true then 'licence_invalid'
    when expires_at <= moment then 'licence_expired'
  end;

-- Why an entitled device may not have a file that is there; NULL when it may.
create or replace function public.ate_file_fault(generation_status text, is_active boolean, expires_at timestamptz,
  tools jsonb, plan_tools jsonb, moment timestamptz) returns text
language sql stable return
  case
    when generation_status is distinct from 'success' then 'pending'
    when expires_at <= moment then 'file_expired'
    when not plan_tools @> tools then 'beyond_plan'
    when is_active is not true then 'file_inactive'
  end;

-- The ordinary case of what is decided below: a plan by its own name (starter where none is named), and no more devices
-- than it allows, so that no rank need be known. Where `certain` is not true, only ate_entitlement knows. A body as
-- text binds nothing to the vendor's columns; it is called only from functions that pin the search_path.
create or replace function public.ate_quick(id uuid, moment timestamptz)
returns table (device_id uuid, user_id uuid, device_hash text, plan_id uuid, plan_name text, plan_tools jsonb,
               expires_at timestamptz, reason text, certain boolean)
language sql stable as $$
  select d.id, d.user_id, d.device_hash::text, p.id, p.name::text, p.tools,
    case when d.status::text = 'trial' then d.trial_ends_at else l.expires_at end,
    public.ate_judge(d.device_hash::text, d.status::text, d.trial_ends_at, s.id is not null, s.status::text,
      l.id is not null, l.is_valid, l.expires_at, ate_quick.moment),
    p.max_devices > 0
      and not exists (select from public.devices o where o.user_id = d.user_id offset p.max_devices)
  from public.devices d
    left join public.subscriptions s on s.device_id = d.id
    left join public.licenses l on l.device_id = d.id
    left join public.plans p on p.name::text = coalesce(s.plan_id::text, 'starter')
  where d.id = ate_quick.id
$$;

-- Why one device may have nothing, or NULL and its plan's tools: the same decision, row after row. A statement of ten
-- relations takes longer to begin than these take altogether, and what is refused anyway needs no plan and no rank.
-- Called only from functions that pin the search_path.
create or replace function public.ate_standing(id uuid, user_id uuid, device_hash text, device_status text,
  trial_ends_at timestamptz, moment timestamptz, out reason text, out plan_tools jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
  subscribed boolean;
  subscription_status text;
  wish text;
  licensed boolean;
  is_valid boolean;
  expires_at timestamptz;
  most integer;
begin
  select true, s.status::text, s.plan_id::text into subscribed, subscription_status, wish
  from public.subscriptions s where s.device_id = ate_standing.id;
  select true, l.is_valid, l.expires_at into licensed, is_valid, expires_at
  from public.licenses l where l.device_id = ate_standing.id;
  reason := public.ate_judge(ate_standing.device_hash, device_status, ate_standing.trial_ends_at, subscribed is true,
    subscription_status, licensed is true, is_valid, expires_at, moment);
  if reason is not null then
    return;
  end if;
  select p.tools, p.max_devices into plan_tools, most from public.plans p where p.name = coalesce(wish, 'starter');
  if most > 0 then
    perform from public.devices o where o.user_id = ate_standing.user_id offset most;
    if not found then
      return;
    end if;
  end if;
  select r.reason, r.plan_tools into reason, plan_tools from public.ate_ranked(array[ate_standing.id]) r;
end $$;

-- The whole of it, for any number of devices.
create or replace function public.ate_ranked(device_ids uuid[])
returns table (device_id uuid, user_id uuid, device_hash text, plan_id uuid, plan_name text, plan_tools jsonb,
               expires_at timestamptz, entitled boolean, reason text)
language plpgsql stable security definer rows 50
-- Ten relations take far longer to plan than a few devices to look up.
set search_path = '' set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  moment constant timestamptz := clock_timestamp();
  starter constant uuid := (select p.id from public.plans p where p.name = 'starter');
begin
  if cardinality(ate_ranked.device_ids) > 100 then
    -- A plan that knows the array hashes it; the other one would search it once for every device.
    perform set_config('plan_cache_mode', 'force_custom_plan', true), set_config('enable_seqscan', 'on', true);
  end if;
  return query
  with asked as materialized (
    select d.* from public.devices d where d.id = any (ate_ranked.device_ids)
  ), crowd as (
    select a.* from asked a where a.user_id is null
    union all
    select s.* from (select distinct a.user_id from asked a) u join public.devices s on s.user_id = u.user_id
  ), judged as (
    select d.id, d.user_id, d.device_hash::text as device_hash, d.created_at, s.plan_id as wish,
      case when d.status = 'trial' then d.trial_ends_at else l.expires_at end as expires_at,
      public.ate_judge(d.device_hash::text, d.status::text, d.trial_ends_at, s.id is not null, s.status::text,
        l.id is not null, l.is_valid, l.expires_at, moment) as reason
    from crowd d
      left join public.subscriptions s on s.device_id = d.id
      left join public.licenses l on l.device_id = d.id
  ), ranked as (
    select j.*, row_number() over (partition by coalesce(j.user_id, j.id), j.reason is null
                                   order by j.created_at, j.id) as place
    from judged j
  )
  select r.id, r.user_id, r.device_hash, p.id, p.name::text, p.tools, r.expires_at,
    r.reason is null and p.id is not null and r.place <= p.max_devices,
    coalesce(r.reason, case when p.id is null then 'no_plan' when r.place > p.max_devices then 'too_many_devices' end)
  from ranked r
    left join public.plans named on named.name = r.wish
    left join public.plan_aliases a on a.alias = r.wish
    left join public.plans meant on meant.name = a.plan_name
    -- Starter may have been renamed. A device must not vanish here: its job would stay first in the line for ever.
    left join public.plans p on p.id = coalesce(named.id, meant.id, starter)
  where r.id = any (ate_ranked.device_ids);
end $$;

-- The one function that decides. An active device with an active subscription and a valid, unexpired licence; or a
-- device in its trial; as long as its rank by age among its user's entitled devices is within its own plan's
-- max_devices. The reason is NULL for the entitled.
create or replace function public.ate_entitlement(device_ids uuid[])
returns table (device_id uuid, user_id uuid, device_hash text, plan_id uuid, plan_name text, plan_tools jsonb,
               expires_at timestamptz, entitled boolean, reason text)
language plpgsql stable security definer rows 50
set search_path = '' set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  moment constant timestamptz := clock_timestamp();
  odd uuid[];
  certain boolean;
begin
  if cardinality(ate_entitlement.device_ids) > 100 then
    return query select * from public.ate_ranked(ate_entitlement.device_ids);
    return;
  end if;
  for device_id, user_id, device_hash, plan_id, plan_name, plan_tools, expires_at, reason, certain in
    select q.* from (select distinct x.id from unnest(ate_entitlement.device_ids) x (id)) x
      cross join lateral public.ate_quick(x.id, moment) q
  loop
    if certain then
      entitled := reason is null;
      return next;
    else
      odd := odd || device_id;
    end if;
  end loop;
  if odd is not null then
    return query select * from public.ate_ranked(odd);
  end if;
end $$;

create or replace function public.get_device_plan_info(device_hash text)
returns table (device_id uuid, plan_name text, plan_tools jsonb, license_expires_at timestamptz, is_valid boolean)
language plpgsql stable security definer rows 1 set search_path = '' as $$
#variable_conflict use_column
begin
  return query
  select e.device_id, e.plan_name, e.plan_tools, e.expires_at, e.entitled
  from public.ate_entitlement(array[public.ate_find_device(get_device_plan_info.device_hash)]) e;
end $$;

-- A row per file of the device; a single row of nothing while it has none.
create or replace function public.get_download_info(device_hash text)
returns table (ate_file_id uuid, filename text, file_size_bytes bigint, expires_at timestamptz, download_count integer,
               is_ready boolean)
language plpgsql stable security definer rows 1 set search_path = '' as $$
#variable_conflict use_column
begin
  return query
  select f.id, f.filename::text, f.file_size_bytes, f.expires_at, coalesce(f.download_count, 0),
    e.entitled and f.id is not null and public.ate_file_fault(f.generation_status::text, f.is_active, f.expires_at,
      f.tools, e.plan_tools, clock_timestamp()) is null
  from public.ate_entitlement(array[public.ate_find_device(get_download_info.device_hash)]) e
    left join public.ate_files f on f.device_id = e.device_id
    left join public.ate_templates t on t.id = f.template_id
  order by t.name = 'smartgram' desc, f.updated_at desc;
end $$;

-- Requests ----------------------------------------------------------------------------------------------------------

create or replace function public.ate_notify_jobs(state text, ids uuid[]) returns void
language plpgsql security definer set search_path = '' as $$
begin
  -- A payload ends at 8000 bytes.
  for nth in 1 .. coalesce(cardinality(ids), 0) by 150 loop
    perform pg_notify('ate_jobs',
      '{"state": "' || state || '", "ids": ["' || array_to_string(ids[nth : nth + 149], '", "') || '"]}');
  end loop;
end $$;

-- Puts jobs in the queue, or touches those that are there. Never DO NOTHING: the touched row is locked until the
-- caller commits, so that no claim can take it and read what was true before.
create or replace function public.ate_enqueue_jobs(device_ids uuid[], template_ids uuid[], priority integer,
  reason text)
returns table (queue_id uuid, created boolean)
language plpgsql security definer set search_path = '' as $$
#variable_conflict use_column
declare
  purchase constant boolean := ate_enqueue_jobs.reason = 'purchase';
begin
  return query
  with touched as (
    insert into public.file_generation_queue as q (device_id, template_id, priority, reason, run_after)
    -- A purchase often comes in several transactions. While a part is missing the job waits for it a little; the part
    -- that completes the purchase brings it forward.
    select e.device_id, t.id, ate_enqueue_jobs.priority, ate_enqueue_jobs.reason,
      clock_timestamp() + case when e.entitled then interval '0' else interval '5 seconds' end
    from public.ate_entitlement(ate_enqueue_jobs.device_ids) e
      join public.ate_templates t on t.id = any (ate_enqueue_jobs.template_ids)
    where e.reason is distinct from 'bad_device_hash'
    order by e.device_id, t.id
    on conflict (device_id, template_id) where status = 'queued' do update set
      priority = least(q.priority, excluded.priority),
      -- A purchase does not wait behind the backoff of an older failure, and has all its retries.
      run_after = case when purchase then least(q.run_after, excluded.run_after) else q.run_after end,
      retry_count = case when purchase then 0 else q.retry_count end,
      reason = case when purchase then 'purchase' else q.reason end,
      updated_at = clock_timestamp()
    -- A row that was there has been locked by this transaction before it was changed, which xmax tells.
    returning q.id, q.xmax = 0
  ), told as materialized (
    select public.ate_notify_jobs('queued', array_agg(id)) from touched
  )
  select touched.* from touched, told;
end $$;

create or replace function public.ate_enqueue(device_ids uuid[], template_ids uuid[], priority integer, reason text)
returns uuid[]
language plpgsql security definer set search_path = '' as $$
begin
  return array(
    select j.queue_id from public.ate_enqueue_jobs($1, $2, $3, $4) j);
end $$;

-- The same for what is no purchase. patient: until all have their place in the line; else those that somebody holds do
-- without. Of several calls in one transaction none may be patient.
create or replace function public.ate_enqueue_behind(device_ids uuid[], template_id uuid, priority integer, reason text,
                                                     patient boolean) returns uuid[]
language plpgsql security definer set search_path = '' set lock_timeout = '100ms' as $$
declare
  moment timestamptz;
  device uuid;
  queued uuid[] := '{}';
  tries integer := 0;
begin
  loop
    begin
      return public.ate_enqueue($1, array[$2], $3, $4);
    exception
      when lock_not_available or deadlock_detected then
        exit when not $5;
        perform pg_sleep(0.02 * random());
      when foreign_key_violation then
        tries := tries + 1;
        if tries = 10 then
          raise;
        end if; -- a device that was deleted just now: the next look does not see it
    end;
  end loop;
  perform set_config('lock_timeout', '5ms', true);
  moment := clock_timestamp();
  -- In any order: what there is no time for must not be the same each time.
  for device in select x from unnest($1) x order by random() loop
    exit when clock_timestamp() > moment + interval '0.3 seconds';
    begin
      queued := queued || public.ate_enqueue(array[device], array[$2], $3, $4);
    exception when lock_not_available or deadlock_detected or foreign_key_violation then
      null;
    end;
  end loop;
  return queued;
end $$;

create or replace function public.ate_wake_workers() returns trigger
language plpgsql set search_path = '' as $$
begin
  perform pg_notify('ate_queue', '');
  return null;
end $$;

create or replace trigger ate_wake_workers after insert
  on public.file_generation_queue for each statement execute function public.ate_wake_workers();

create or replace function public.ate_request(device_hash text, template_name text, priority integer)
returns table (queue_id uuid, created boolean)
language plpgsql security definer set search_path = '' set lock_timeout = '100ms' as $$
#variable_conflict use_column
declare
  device uuid := public.ate_find_device(ate_request.device_hash);
  template uuid;
  refusal text;
  tries integer := 0;
  alone constant boolean := txid_current_if_assigned() is null;
begin
  if not alone then
    -- What the caller's transaction has already cannot be let go of: two such could be in each other's way for ever. So
    -- Postgres is to find out, and to end one of them.
    perform set_config('lock_timeout', '0', true);
  end if;
  if ate_request.priority is null or ate_request.priority not between 1 and 10 then
    raise exception using errcode = 'AT004', detail = 'bad_priority', hint = 'Use 1 (first) to 10 (last).',
      message = format('queue_ate_generation: priority %s: must be within 1 to 10', ate_request.priority);
  end if;
  loop
    if device is null then
      raise exception using errcode = 'AT001', detail = 'unknown_device',
        hint = 'Check the device hash; a device must be registered, and yours.',
        message = 'queue_ate_generation: unknown device';
    end if;
    select t.id into template from public.ate_templates t
    where t.name = ate_request.template_name and t.is_active;
    if template is null then
      raise exception using errcode = 'AT003', detail = 'unknown_template',
        hint = 'Publish the template, or name another one.',
        message = format('queue_ate_generation: template %s: unknown or inactive',
                         coalesce(ate_request.template_name, 'NULL'));
    end if;
    select e.reason into refusal from public.ate_entitlement(array[device]) e where not e.entitled;
    if found then
      raise exception using errcode = 'AT002', detail = refusal, hint = public.ate_reason_hint(refusal),
        message = format('queue_ate_generation: device %s: not entitled (%s)', ate_request.device_hash, refusal);
    end if;
    begin
      return query select j.queue_id, j.created
        from public.ate_enqueue_jobs(array[device], array[template], ate_request.priority, 'request') j;
      return;
    exception
      when lock_not_available or deadlock_detected then
        if not alone then
          raise;
        end if;
        perform pg_sleep(0.02 * random());
      when foreign_key_violation then
        tries := tries + 1;
        if tries = 10 then
          raise;
        end if;
        device := public.ate_find_device(ate_request.device_hash); -- deleted just now
    end;
  end loop;
end $$;

create or replace function public.queue_ate_generation(device_hash text, template_name text default 'smartgram',
                                                       priority integer default 5) returns uuid
language plpgsql security definer set search_path = '' as $$
begin
  return (select r.queue_id from public.ate_request($1, $2, $3) r);
end $$;

create or replace function public.ate_reason_hint(reason text) returns text
language plpgsql immutable set search_path = '' as $$
begin
  return case reason
    when 'bad_device_hash'
      then 'A device hash has 1 to 128 characters of A-Z a-z 0-9 . _ - and does not begin with a dot.'
    when 'trial_ended' then 'The trial is over: a subscription is needed.'
    when 'device_not_active' then 'Only an active device, or one in its trial, gets files.'
    when 'no_subscription' then 'The device has no subscription.'
    when 'subscription_not_active' then 'The subscription must be active.'
    when 'no_licence' then 'The device has no licence.'
    when 'licence_invalid' then 'The licence is not valid.'
    when 'licence_expired' then 'The licence has expired: renew it.'
    when 'no_plan' then 'The device has no plan that is known, and there is no plan starter to stand in for it.'
    when 'too_many_devices' then 'The plan allows fewer devices: remove one, or choose a larger plan.'
    when 'template_inactive' then 'The template is not active.'
  end;
end $$;

create or replace function public.log_download(ate_file_id uuid, download_ip inet, user_agent text,
  bytes_downloaded bigint,
                                               status text default 'completed', reached_end boolean default true)
returns uuid
language plpgsql security definer set search_path = '' set lock_timeout = '100ms' as $$
#variable_conflict use_column
declare
  device uuid;
  entry uuid;
begin
  if log_download.status is null or log_download.status not in ('completed', 'failed') then
    raise exception using errcode = 'AT008', detail = 'status', hint = 'Use completed or failed.',
      message = format('log_download: status %s: unknown', coalesce(log_download.status, 'NULL'));
  elsif log_download.bytes_downloaded is null or log_download.bytes_downloaded < 0 then
    raise exception using errcode = 'AT008', detail = 'bytes_downloaded',
      hint = 'Count the bytes that were really sent.',
      message = 'log_download: bytes_downloaded: must be a number from 0 up';
  end if;
  loop
    begin
      -- Part of a file may be fetched many times; only a response that ends with its last byte is a download.
      update public.ate_files f set
        download_count = f.download_count
          + case when log_download.status = 'completed' and log_download.reached_end then 1 else 0 end,
        last_downloaded_at = clock_timestamp()
      where f.id = log_download.ate_file_id
      returning f.device_id into device;
      if not found then
        raise exception using errcode = 'AT006', detail = 'unknown', hint = 'The file may have gone with its device.',
          message = format('log_download: file %s: unknown', coalesce(log_download.ate_file_id::text, 'NULL'));
      end if;
      insert into public.download_history (ate_file_id, device_id, user_id, download_ip, user_agent, status,
        bytes_downloaded, reached_end)
      values (log_download.ate_file_id, device, (select d.user_id from public.devices d where d.id = device),
              log_download.download_ip, log_download.user_agent, log_download.status, log_download.bytes_downloaded,
              coalesce(log_download.reached_end, false))
      returning id into entry;
      return entry;
    exception when lock_not_available or deadlock_detected then
      -- As while the device is being deleted: whose its row is wants the file's, too.
      perform pg_sleep(0.02 * random());
    end;
  end loop;
end $$;

-- Purchases ---------------------------------------------------------------------------------------------------------
-- Per statement, over all its rows. Which device is entitled is not asked here: another transaction may be committing
-- the missing part right now. The job asks when it runs.

create or replace function public.ate_purchased(device_ids uuid[]) returns void
language plpgsql security definer set search_path = '' as $$
begin
  if cardinality(device_ids) > 0 then
    perform public.ate_enqueue(device_ids, array(select t.id from public.ate_templates t where t.is_active), 5,
      'purchase');
  end if;
end $$;

create or replace function public.ate_on_subscriptions() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if tg_op = 'INSERT' then
    perform public.ate_purchased(array(
      select n.device_id from new_rows n join public.devices d on d.id = n.device_id
      where n.status = 'active' or d.status = 'trial' and n.plan_id is not null));
  else
    perform public.ate_purchased(array(
      select n.device_id from new_rows n
        join old_rows o on o.id = n.id
        join public.devices d on d.id = n.device_id
      where n.status = 'active' and o.status is distinct from 'active'
         or n.plan_id is distinct from o.plan_id and (n.status = 'active' or d.status = 'trial')
         or n.device_id <> o.device_id and (n.status = 'active' or d.status = 'trial')));
  end if;
  return null;
end $$;

create or replace function public.ate_on_devices() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if tg_op = 'INSERT' then
    perform public.ate_purchased(array(select n.id from new_rows n where n.status in ('active', 'trial')));
  else
    perform public.ate_purchased(array(
      select n.id from new_rows n join old_rows o on o.id = n.id
      where n.status in ('active', 'trial')
        and (n.status is distinct from o.status
             or n.status = 'trial' and n.trial_ends_at is distinct from o.trial_ends_at
             -- The file is sealed for the hash.
             or n.device_hash is distinct from o.device_hash)));
  end if;
  return null;
end $$;

create or replace function public.ate_on_licenses() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  -- A licence that became worthless calls for no file.
  if tg_op = 'INSERT' then
    perform public.ate_purchased(array(
      select n.device_id from new_rows n join public.devices d on d.id = n.device_id
      where n.is_valid and (n.expires_at is null or n.expires_at > now()) and d.status in ('active', 'trial')));
  else
    perform public.ate_purchased(array(
      select n.device_id from new_rows n
        join old_rows o on o.id = n.id
        join public.devices d on d.id = n.device_id
      where n.is_valid and (n.expires_at is null or n.expires_at > now()) and d.status in ('active', 'trial')
        and (n.is_valid is distinct from o.is_valid or n.expires_at is distinct from o.expires_at
             or n.device_id <> o.device_id)));
  end if;
  return null;
end $$;

create or replace trigger ate_subscription_inserted after insert on public.subscriptions
  referencing new table as new_rows for each statement execute function public.ate_on_subscriptions();
create or replace trigger ate_subscription_updated after update on public.subscriptions
  referencing old table as old_rows new table as new_rows
    for each statement execute function public.ate_on_subscriptions();
create or replace trigger ate_device_inserted after insert on public.devices
  referencing new table as new_rows for each statement execute function public.ate_on_devices();
create or replace trigger ate_device_updated after update on public.devices
  referencing old table as old_rows new table as new_rows for each statement execute function public.ate_on_devices();
create or replace trigger ate_license_inserted after insert on public.licenses
  referencing new table as new_rows for each statement execute function public.ate_on_licenses();
create or replace trigger ate_license_updated after update on public.licenses
  referencing old table as old_rows new table as new_rows for each statement execute function public.ate_on_licenses();

-- Jobs that go back -------------------------------------------------------------------------------------------------

-- Ends a run without a file. cost 1: the run counts against max_retries; 0: it does not. delay NULL: exponential
-- backoff with full jitter, 0.1 s at least: what may pass has not passed at once. The rows are locked by the caller, in
-- the subtransaction that this is called in: a purchase that is not committed may have queued some of these devices
-- anew, and has then the places in the line that they want back. A row that may not go back, because a newer one is
-- queued, becomes cancelled. Gives the rows' new status.
create or replace function public.ate_put_back(queue_ids uuid[], cost integer, permanent boolean, delay interval,
                                               code text, message text)
returns table (queue_id uuid, status text)
language plpgsql security definer set search_path = '' as $$
#variable_conflict use_column
declare
  moment constant timestamptz := clock_timestamp();
  after public.file_generation_queue[];
begin
  while cardinality(ate_put_back.queue_ids) > 0 loop
    begin
      with next as (
        select q.id, case
            when ate_put_back.permanent or cost > 0 and q.retry_count >= q.max_retries then 'failed'
            when exists (select from public.file_generation_queue n where n.status = 'queued'
                         and n.device_id = q.device_id and n.template_id = q.template_id) then 'cancelled'
            else 'queued'
          end as status
        from public.file_generation_queue q
        where q.id = any (ate_put_back.queue_ids) and q.status = 'processing'
      ), moved as (
        update public.file_generation_queue q set
          status = next.status,
          retry_count = q.retry_count + case when next.status = 'queued' then cost else 0 end,
          run_after = case when next.status <> 'queued' then q.run_after else moment + coalesce(delay,
            greatest(interval '100 milliseconds',
              random() * least(interval '10 minutes', interval '2 seconds' * power(2, least(q.retry_count, 20))))) end,
          lease_until = null, stage = null, updated_at = moment,
          finished_at = case when next.status = 'queued' then null else moment end,
          error_code = case when next.status = 'cancelled' then 'superseded' else code end,
          error_message = case when next.status = 'cancelled'
            then 'superseded: a newer job is queued' || coalesce(' (' || message || ')', '') else message end
        from next
        where q.id = next.id
        returning q.*
      )
      select array_agg(m) into after from moved m;
      exit;
    exception when unique_violation then
      -- A newer request got in between: look again, now it is seen.
      null;
    end;
  end loop;
  perform public.ate_notify_jobs(s.status, s.ids)
    from (select a.status, array_agg(a.id) as ids from unnest(after) a group by a.status) s;
  if exists (select from unnest(after) a where a.status = 'queued' and a.run_after <= moment) then
    perform pg_notify('ate_queue', '');
  end if;
  return query select a.id, a.status::text from unnest(after) a;
end $$;

-- Of the next one, in its subtransaction. Not patient: those that nobody else holds. Nor may their devices be on their
-- way out: a claim that follows in the same transaction refers to these again, and must wait for nobody.
create or replace function public.ate_take_jobs(queue_ids uuid[], holders text[], over timestamptz, patient boolean,
                                                cost integer, delay interval, code text, message text) returns integer
language plpgsql security definer set search_path = '' as $$
#variable_conflict use_column
declare
  ids uuid[];
begin
  if ate_take_jobs.patient then
    ids := array(
      select q.id from public.file_generation_queue q
      where q.id = any (ate_take_jobs.queue_ids) and q.lease_until is not null
        and (holders is null or q.worker_id = any (holders)) and (over is null or q.lease_until < over)
      order by q.id for update);
  else
    ids := array(
      select q.id from public.file_generation_queue q join public.devices d on d.id = q.device_id
      where q.id = any (ate_take_jobs.queue_ids) and q.lease_until is not null
        and (holders is null or q.worker_id = any (holders)) and (over is null or q.lease_until < over)
      order by q.id for update of q skip locked for key share of d skip locked);
  end if;
  return (select count(*) from public.ate_put_back(ids, cost, false, delay, code, message));
end $$;

-- Those of these jobs that a holder has (any, when NULL) or whose lease was over at a time (whenever, when NULL) go
-- back. patient: others are waited for, a while; what is still in somebody's hands then is left as it is, and one
-- forgotten transaction keeps nobody else's jobs. Gives the number of those that went.
create or replace function public.ate_take_back(queue_ids uuid[], holders text[], over timestamptz, patient boolean,
                                                cost integer, delay interval, code text, message text) returns integer
language plpgsql security definer set search_path = '' set lock_timeout = '100ms' as $$
#variable_conflict use_column
declare
  moment timestamptz := clock_timestamp();
  job uuid;
  taken integer := 0;
begin
  if cardinality(ate_take_back.queue_ids) = 0 then
    return 0;
  end if;
  loop
    begin
      return public.ate_take_jobs(ate_take_back.queue_ids, holders, over, patient, cost, delay, code, message);
    exception when lock_not_available or deadlock_detected then
      exit when not ate_take_back.patient or clock_timestamp() >= moment + interval '5 seconds';
      perform pg_sleep(0.02 * random());
    end;
  end loop;
  moment := clock_timestamp();
  perform set_config('lock_timeout', '5ms', true);
  for job in select x from unnest(ate_take_back.queue_ids) x order by random() loop
    exit when clock_timestamp() > moment + interval '0.3 seconds';
    begin
      taken := taken + public.ate_take_jobs(array[job], holders, over, patient, cost, delay, code, message);
    exception when lock_not_available or deadlock_detected then
      null;
    end;
  end loop;
  return taken;
end $$;

-- Workers -----------------------------------------------------------------------------------------------------------

create or replace function public.ate_worker_key(worker_id text) returns bigint
language plpgsql immutable set search_path = '' as $$
begin
  return hashtextextended('atelier worker ' || worker_id, 0);
end $$;

-- Gives back the jobs of workers whose lock is gone, and those whose lease is over. One look at pg_locks for all of
-- them.
create or replace function public.rescue_ate_generations() returns integer
language plpgsql security definer set search_path = '' as $$
#variable_conflict use_column
declare
  moment constant timestamptz := clock_timestamp();
  lost text[];
  rescued integer := 0;
begin
  if exists (select from public.ate_workers w where w.gone_at is null and w.lock_held) then
    update public.ate_workers w set gone_at = moment, gone_reason = 'lost'
    where w.worker_id in (
      select c.worker_id from public.ate_workers c
      where c.gone_at is null and c.lock_held and public.ate_worker_key(c.worker_id) not in (
        select l.classid::bigint << 32 | l.objid::bigint from pg_locks l
        where l.locktype = 'advisory' and l.objsubid = 1 and l.granted
          and l.database = (select d.oid from pg_database d where d.datname = current_database()))
      for update skip locked);
  end if;
  -- Not only those found just now: one of their rows may have been locked a moment ago.
  lost := array(select w.worker_id from public.ate_workers w
                where w.gone_at > moment - interval '10 seconds' and w.gone_reason = 'lost');
  if cardinality(lost) > 0 then
    rescued := public.ate_take_back(array(
      select q.id from public.file_generation_queue q where q.lease_until is not null and q.worker_id = any (lost)),
      lost, null, false, 1, interval '0', 'worker_lost', 'the worker ended without a word');
  end if;
  return rescued + public.ate_take_back(array(
    select q.id from public.file_generation_queue q where q.lease_until < moment),
    null, moment, false, 1, interval '0', 'lease_over', 'the lease ran out');
end $$;

-- Four times a second at most, and with the first claim of a session: signs of life, then the rescue of others. The
-- session keeps the worker's lock. When another session has it (a pooler that shares sessions, or one left over), or
-- atelier.worker_lock is off, the lock says nothing about this worker: from then on only its leases count.
create or replace function public.ate_worker_tick(worker_id text) returns void
language plpgsql security definer set search_path = '' as $$
#variable_conflict use_column
declare
  me constant text := ate_worker_tick.worker_id;
  moment constant timestamptz := clock_timestamp();
  parts constant text[] := regexp_match(me, '^(.+)[:/ -]([0-9]{1,9})[:/ -][^:/ -]+$');
  held boolean := current_setting('atelier.worker', true) = me;
begin
  if held is not true then
    held := coalesce(current_setting('atelier.worker_lock', true), '') <> 'off'
      and pg_try_advisory_lock(public.ate_worker_key(me));
    perform set_config('atelier.worker', me, false);
  else
    held := (select w.lock_held from public.ate_workers w where w.worker_id = me);
  end if;
  insert into public.ate_workers as w (worker_id, host, pid, backend_pid, lock_held, started_at, last_seen, line_start)
  values (me, parts[1], parts[2]::integer, pg_backend_pid(), coalesce(held, false), clock_timestamp(),
    clock_timestamp(), to_timestamp(nullif(current_setting('atelier.line_start', true), '')::float8))
  on conflict (worker_id) do update set
    backend_pid = excluded.backend_pid, lock_held = w.lock_held and excluded.lock_held, last_seen = excluded.last_seen,
    gone_at = null, gone_reason = null, line_start = coalesce(excluded.line_start, w.line_start);
  perform public.rescue_ate_generations();
  perform set_config('atelier.next_tick', (extract(epoch from clock_timestamp())
    + greatest(0.25, 20 * extract(epoch from clock_timestamp() - moment)))::text, false);
end $$;

create or replace function public.claim_ate_generations(worker_id text, batch_size integer default 1,
                                                        lease interval default '60 seconds',
                                                        only_queue_id uuid default null)
returns table (queue_id uuid, attempt integer, device_id uuid, device_hash text, template_id uuid, template_name text,
               template_version text, template_path text, file_structure jsonb, plan_id uuid, plan_name text,
               plan_tools jsonb, license_expires_at timestamptz, generation_params jsonb, generation integer,
                 container text,
               template_runtime text, content_sha256 text, required_variables jsonb, user_id uuid, priority integer,
               retry_count integer, max_retries integer, reason text, queued_at timestamptz)
language plpgsql security definer rows 50
-- Only index walks, whatever the statistics of a table that was empty a minute ago say: a bitmap, or a sort, would look
-- at all that is queued for each batch.
set search_path = '' set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  me constant text := claim_ate_generations.worker_id;
  moment timestamptz;
  until timestamptz;
  low timestamptz;
  head timestamptz;
  mark timestamptz;
  ids uuid[];
  devices uuid[];
  templates uuid[];
  claimed integer;
begin
  if me is null or length(me) not between 1 and 200 then
    raise exception using errcode = 'AT008', detail = 'worker_id',
      hint = 'Name one start of a process: host, pid, random.',
      message = 'claim_ate_generations: worker_id: must have 1 to 200 characters';
  elsif batch_size is null or batch_size not between 1 and 1000 then
    raise exception using errcode = 'AT008', detail = 'batch_size', hint = 'Use 1 to 1000.',
      message = 'claim_ate_generations: batch_size: must be within 1 to 1000';
  elsif lease is null or lease not between interval '1 second' and interval '1 day' then
    raise exception using errcode = 'AT008', detail = 'lease', hint = 'Use one second to one day.',
      message = 'claim_ate_generations: lease: must be within one second and one day';
  end if;
  if current_setting('atelier.worker', true) is distinct from me
    or nullif(current_setting('atelier.next_tick', true), '')::float8 < extract(epoch from clock_timestamp()) then
    perform public.ate_worker_tick(me);
  end if;

  moment := clock_timestamp();
  until := moment + lease;
  -- First lock …
  if only_queue_id is not null then
    select array[c.id], array[c.device_id], array[c.template_id] into ids, devices, templates from (
      select q.id, q.device_id, q.template_id from public.file_generation_queue q
      where q.id = claim_ate_generations.only_queue_id and q.status = 'queued' and not exists (
        select from public.file_generation_queue p
        where p.status = 'processing' and p.device_id = q.device_id and p.template_id = q.template_id)
      for update of q skip locked) c;
  else
    -- An old snapshot elsewhere keeps every row that was ever claimed in the index, at its start. So a session begins
    -- where its last claim ended, and from the start again after a tenth of a second (longer where that is slow), or
    -- when it finds nothing: more urgent jobs that came in since stand before its mark.
    if nullif(current_setting('atelier.claim_until', true), '')::float8 > extract(epoch from moment) then
      low := to_timestamp(nullif(current_setting('atelier.claim_mark', true), '')::float8) - interval '1 millisecond';
    end if;
    loop
      select array_agg(c.id), array_agg(c.device_id), array_agg(c.template_id), min(c.sort_key), max(c.sort_key)
      into ids, devices, templates, head, mark from (
        select q.id, q.device_id, q.template_id, q.sort_key from public.file_generation_queue q
        where q.status = 'queued' and q.sort_key >= coalesce(low, '-infinity') and q.run_after <= moment
          -- A scalar subquery is a probe of the index for each row; NOT EXISTS may become a walk over all in
          -- processing.
          and (select p.id from public.file_generation_queue p
               where p.status = 'processing' and p.device_id = q.device_id and p.template_id = q.template_id) is null
        order by q.sort_key limit claim_ate_generations.batch_size for update of q skip locked) c;
      if low is null then
        perform set_config('atelier.claim_until', (extract(epoch from clock_timestamp())
          + greatest(0.1, 20 * extract(epoch from clock_timestamp() - moment)))::text, false),
          -- What may not run yet has its place after this moment.
          set_config('atelier.line_start', extract(epoch from coalesce(head, moment))::text, false);
      end if;
      exit when ids is not null or low is null;
      low := null;
    end loop;
    perform set_config('atelier.claim_mark', extract(epoch from mark)::text, false);
  end if;
  if ids is null then
    return;
  end if;

  -- … then read, in a statement that sees what was committed up to now. A purchase that comes later finds no queued
  -- row and makes a new one.
  return query
  with seen as materialized (
    select x.id as job, x.template_id, x.place, q.*, coalesce(f.generation, 0) + 1 as generation
    from unnest(ids, devices, templates) with ordinality x (id, device_id, template_id, place)
      cross join lateral public.ate_quick(x.device_id, moment) q
      left join public.ate_files f on f.device_id = x.device_id and f.template_id = x.template_id
  ), odd as (
    select array_agg(s.device_id) as ids from seen s where s.certain is not true
  ), decided as (
    select s.job, s.template_id, s.place, s.generation, s.user_id, s.device_hash, s.plan_id, s.plan_name, s.plan_tools,
      s.expires_at, s.reason
    from seen s where s.certain
    union all
    select s.job, s.template_id, s.place, s.generation, e.user_id, e.device_hash, e.plan_id, e.plan_name, e.plan_tools,
      e.expires_at, e.reason
    from odd o cross join lateral public.ate_ranked(o.ids) e join seen s on s.device_id = e.device_id
    where o.ids is not null
  ), found as (
    select d.job as id, d.place, d.generation, d.user_id, d.device_hash, d.plan_id, d.plan_name, d.plan_tools,
      d.expires_at, t.version::text as template_version, t.container,
      case when not t.is_active then 'template_inactive' else d.reason end as refusal
    from decided d join public.ate_templates t on t.id = d.template_id
  ), taken as (
    update public.file_generation_queue q set
      status = case when f.refusal is null then 'processing' else 'failed' end,
      attempt = q.attempt + 1, worker_id = me, claimed_at = moment, updated_at = moment,
      lease_until = case when f.refusal is null then until end,
      stage = case when f.refusal is null then 'claimed' end,
      verdict = null, usage = null, error_code = f.refusal,
      error_message = 'not entitled: ' || f.refusal, finished_at = case when f.refusal is not null then moment end,
      device_hash = f.device_hash, plan_id = f.plan_id, plan_tools = f.plan_tools, license_expires_at = f.expires_at,
      template_version = f.template_version, container = f.container, generation = f.generation
    from found f
    where q.id = f.id
    returning f.place, f.refusal, q.id, q.attempt, q.device_id, q.device_hash, q.template_id, q.plan_id, f.plan_name,
      q.plan_tools, q.license_expires_at, q.generation_params, q.generation, f.user_id, q.priority, q.retry_count,
      q.max_retries, q.reason, q.created_at
  )
  select j.id, j.attempt, j.device_id, j.device_hash, j.template_id, t.name::text, t.version::text,
    t.template_path::text, t.file_structure, j.plan_id, j.plan_name, j.plan_tools, j.license_expires_at,
    j.generation_params, j.generation, t.container, t.runtime, t.content_sha256::text, t.required_variables, j.user_id,
    j.priority, j.retry_count, j.max_retries, j.reason, j.created_at
  from taken j join public.ate_templates t on t.id = j.template_id
  where j.refusal is null order by j.place;

  get diagnostics claimed = row_count;
  perform public.ate_notify_jobs('processing', ids);
  if claimed < cardinality(ids) then
    perform public.ate_notify_jobs('failed', array(
      select q.id from public.file_generation_queue q where q.id = any (ids) and q.status = 'failed'));
  end if;
end $$;

-- Of complete_ate_batch, whose subtransaction it is called in. Many jobs in one statement: what is wrong with one
-- spoils no other. Each member is {queue_id, file_path, file_size,
-- checksum, encryption_key_hash, attempt?, generated_variables?, verdict?, usage?}; the artifact's particulars come
-- from generated_variables. An error is "word: text" with one of the words malformed, duplicate, unknown, stale,
-- not_processing.
create or replace function public.ate_complete_jobs(jobs jsonb)
returns table (queue_id uuid, ate_file_id uuid, error text)
language plpgsql security definer rows 50
set search_path = '' set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  moment constant timestamptz := clock_timestamp();
  stamp constant text := floor(extract(epoch from moment));
  -- Classes of characters and lengths: a counted repetition costs many times that.
  no_digit constant text := '[^0-9]';
  no_hex constant text := '[^0-9a-fA-F]';
  no_id constant text := '[^0-9a-fA-F-]';
  id_form constant text := '________-____-____-____-____________';
  done uuid[];
begin
  if jobs is null or jsonb_typeof(jobs) <> 'array' then
    raise exception using errcode = 'AT008', detail = 'jobs', hint = 'Pass a JSON array of objects.',
      message = 'complete_ate_generations: jobs: must be an array';
  end if;
  for queue_id, ate_file_id, error in
    with member as materialized (
      select x.n, x.e, x.fault, case when x.fault is null or x.fault not in ('queue_id', 'not an object')
          then (x.e ->> 'queue_id')::uuid end as queue_id,
        case when x.fault is null then (x.e ->> 'attempt')::integer end as attempt
      from (select x.n, x.e, case
          when jsonb_typeof(x.e) <> 'object' then 'not an object'
          when coalesce(x.e ->> 'queue_id', '') not like id_form or x.e ->> 'queue_id' ~ no_id
            or length(replace(x.e ->> 'queue_id', '-', '')) <> 32 then 'queue_id'
          when length(x.e ->> 'attempt') not between 1 and 9 or x.e ->> 'attempt' ~ no_digit then 'attempt'
          when length(coalesce(x.e ->> 'file_path', '')) not between 1 and 500
            or '/' || (x.e ->> 'file_path') || '/' ~ '//|/\.\.?/|[[:cntrl:]\\]' then 'file_path'
          when jsonb_typeof(x.e -> 'file_size') <> 'number' or x.e ->> 'file_size' ~ no_digit
            or length(coalesce(x.e ->> 'file_size', '')) not between 1 and 18 then 'file_size'
          when length(coalesce(x.e ->> 'checksum', '')) <> 64 or x.e ->> 'checksum' ~ no_hex then 'checksum'
          when length(coalesce(x.e ->> 'encryption_key_hash', '')) <> 64 or x.e ->> 'encryption_key_hash' ~ no_hex
            then 'encryption_key_hash'
          when jsonb_typeof(x.e -> 'generated_variables') not in ('object', 'null') then 'generated_variables'
        end as fault
        -- OFFSET 0: or it would be judged once for each time that the fault is named above.
        from jsonb_array_elements(jobs) with ordinality x (e, n) offset 0) x
    ), done as (
      -- One look at each job, in the order of their ids: a list of one id, and a status that no index is made for,
      -- leave no other way, where a join could become a walk over all that are processing, in any order. A row that
      -- another session changes meanwhile is looked at again, so the id must find it, and not its place. Of several
      -- members for one job the first with its current attempt changes it, and the row finds no other.
      update public.file_generation_queue q set
        status = 'completed', finished_at = moment, updated_at = moment, lease_until = null, stage = null,
        verdict = coalesce(m.e ->> 'verdict', q.verdict), usage = coalesce(m.e -> 'usage', q.usage),
        error_code = null, error_message = null
      from (select o.queue_id, o.n, o.e, o.attempt from member o where o.fault is null order by o.queue_id, o.n) m
      where q.id = any (array[m.queue_id]) and coalesce(q.status, '') = 'processing'
        and q.attempt = coalesce(m.attempt, q.attempt)
      returning q.id, q.device_id, q.template_id, q.device_hash, q.plan_id, q.plan_tools, q.template_version,
        q.container, q.generation, q.license_expires_at, m.n, m.e,
        coalesce(nullif(m.e -> 'generated_variables', 'null'), '{}') as made
    ), named as materialized (
      select d.n, d.id, d.device_id, d.template_id, d.plan_id, d.device_hash || '_' || stamp || '.ate' as filename,
        d.e ->> 'file_path' as file_path, (d.e ->> 'file_size')::bigint as file_size,
        lower(d.e ->> 'checksum') as checksum, lower(d.e ->> 'encryption_key_hash') as key_hash,
        -- Whatever a worker sends, a licence key is not kept.
        d.made - array['license_key', 'licence_key'] as made, d.license_expires_at, d.generation, d.template_version,
        case when d.made ->> 'artifact_id' like id_form and d.made ->> 'artifact_id' !~ no_id
            and length(replace(d.made ->> 'artifact_id', '-', '')) = 32 then (d.made ->> 'artifact_id')::uuid
          else gen_random_uuid() end as artifact_id,
        coalesce(d.made ->> 'container', d.container) as container,
        case when jsonb_typeof(d.made -> 'tools') = 'array' then d.made -> 'tools' else d.plan_tools end as tools,
        d.made ->> 'master_key_id' as master_key_id, d.made ->> 'signer_id' as signer_id,
        f.id as file, f.place, f.plan_id as old_plan_id, f.artifact_id as old_artifact_id,
        f.generation as old_generation, f.template_version as old_template_version, f.container as old_container,
        f.tools as old_tools, f.filename as old_filename, f.file_path as old_file_path,
        f.file_size_bytes as old_file_size, f.checksum as old_checksum, f.encryption_key_hash as old_key_hash,
        f.master_key_id as old_master_key_id, f.expires_at as old_expires_at, f.updated_at as old_updated_at
      from done d left join lateral (
        select o.ctid as place, o.id, o.plan_id, o.artifact_id, o.generation, o.template_version, o.container, o.tools,
          o.filename, o.file_path, o.file_size_bytes, o.checksum, o.encryption_key_hash, o.master_key_id, o.expires_at,
          o.updated_at
        from public.ate_files o where o.device_id = d.device_id and o.template_id = d.template_id offset 0) f on true
    ), retired as (
      insert into public.ate_file_versions (ate_file_id, device_id, template_id, plan_id, artifact_id, generation,
        template_version, container, tools, filename, file_path, file_size_bytes, checksum, encryption_key_hash,
        master_key_id, expires_at, created_at, retired_at)
      select d.file, d.device_id, d.template_id, d.old_plan_id, d.old_artifact_id, d.old_generation,
        d.old_template_version, d.old_container, d.old_tools, d.old_filename, d.old_file_path, d.old_file_size,
        d.old_checksum, d.old_key_hash, d.old_master_key_id, d.old_expires_at, d.old_updated_at, moment
      from named d where d.old_file_path <> d.file_path
    ), replaced as (
      -- As the conflict below would have it, at half the price.
      update public.ate_files f set
        plan_id = d.plan_id, filename = d.filename, file_path = d.file_path, file_size_bytes = d.file_size,
        checksum = d.checksum, encryption_key_hash = d.key_hash, generated_variables = d.made,
        generation_status = 'success', expires_at = d.license_expires_at, updated_at = moment,
        artifact_id = d.artifact_id, generation = d.generation, template_version = d.template_version,
        container = d.container, tools = d.tools, master_key_id = d.master_key_id, signer_id = d.signer_id,
        is_active = true, queue_id = d.id
      -- In the order of the files' ids, as who writes down downloads: neither can stand in the other's way for good.
      from (select * from named x where x.place is not null order by x.file) d
      where f.ctid = d.place
      returning f.id, d.n
    ), filed as (
      insert into public.ate_files (device_id, template_id, plan_id, filename, file_path, file_size_bytes, checksum,
        encryption_key_hash, generated_variables, generation_status, expires_at, created_at, updated_at, artifact_id,
        generation, template_version, container, tools, master_key_id, signer_id, is_active, queue_id)
      select d.device_id, d.template_id, d.plan_id, d.filename, d.file_path, d.file_size, d.checksum, d.key_hash,
        d.made, 'success', d.license_expires_at, moment, moment, d.artifact_id, d.generation, d.template_version,
        d.container, d.tools, d.master_key_id, d.signer_id, true, d.id
      from named d where not (d.n = any (array(select r.n from replaced r)))
      order by d.device_id, d.template_id
      on conflict (device_id, template_id) do update set
        plan_id = excluded.plan_id, filename = excluded.filename, file_path = excluded.file_path,
        file_size_bytes = excluded.file_size_bytes, checksum = excluded.checksum,
        encryption_key_hash = excluded.encryption_key_hash, generated_variables = excluded.generated_variables,
        generation_status = 'success', expires_at = excluded.expires_at, updated_at = excluded.updated_at,
        artifact_id = excluded.artifact_id, generation = excluded.generation,
        template_version = excluded.template_version, container = excluded.container, tools = excluded.tools,
        master_key_id = excluded.master_key_id, signer_id = excluded.signer_id, is_active = true,
        queue_id = excluded.queue_id
      returning id, queue_id
    ), kept as (
      select r.n, r.id from replaced r
      union all
      select d.n, f.id from filed f join done d on d.id = f.queue_id
    )
    -- Why not is asked for the few that did not go, and of the rows as they were when this began.
    select m.queue_id, k.id, case when k.id is null then coalesce('malformed: ' || m.fault, (
        select case
            when q.attempt <> m.attempt then
              'stale: attempt ' || m.attempt || ' is not the current one (' || q.attempt || ')'
            when exists (select from done o where o.id = m.queue_id) then
              'duplicate: the job is in this call already'
            when q.status <> 'processing' then 'not_processing: the job is ' || q.status
            else 'stale: the job has just changed'
          end
        from public.file_generation_queue q where q.id = m.queue_id), 'unknown: no such job') end
    from member m left join kept k on k.n = m.n
    order by m.n
  loop
    if error is null then
      done := done || queue_id;
    end if;
    return next;
  end loop;
  perform public.ate_notify_jobs('completed', done);
end $$;

-- Completes jobs: all, as soon as that is possible. hurried: for a worker that has more to do than to wait. Who stands
-- in the way of one job, as a purchase that somebody forgot to commit, keeps no other: such a one has the error
-- "busy: text", is as it was, and may be offered again. A table that is locked is in everybody's way, and waited for.
create or replace function public.complete_ate_batch(jobs jsonb, hurried boolean default false)
returns table (queue_id uuid, ate_file_id uuid, error text)
language plpgsql security definer rows 50 set search_path = '' set lock_timeout = '100ms' as $$
#variable_conflict use_column
declare
  moment timestamptz;
  member jsonb;
begin
  loop
    begin
      return query select * from public.ate_complete_jobs($1);
      return;
    exception when lock_not_available or deadlock_detected then
      null;
    end;
    if hurried then
      begin
        lock table public.file_generation_queue, public.ate_files, public.ate_file_versions
          in row exclusive mode nowait;
        exit;
      exception when lock_not_available then
        null;
      end;
    end if;
    perform pg_sleep(0.02 * random());
  end loop;
  moment := clock_timestamp();
  perform set_config('lock_timeout', '5ms', true);
  for member in select e from jsonb_array_elements($1) with ordinality x (e, n) order by x.n loop
    begin
      if clock_timestamp() > moment + interval '0.3 seconds' then
        raise lock_not_available; -- or whoever waits for this one may be waited for at the wrong moment
      end if;
      return query select * from public.ate_complete_jobs(jsonb_build_array(member));
    exception when lock_not_available or deadlock_detected then
      return query select (member ->> 'queue_id')::uuid, null::uuid, 'busy: another transaction stands in the way';
    end;
  end loop;
end $$;

create or replace function public.complete_ate_generations(jobs jsonb)
returns table (queue_id uuid, ate_file_id uuid, error text)
language plpgsql security definer rows 50 set search_path = '' as $$
begin
  return query select * from public.complete_ate_batch($1);
end $$;

-- What a batch reports, one job raises.
create or replace function public.ate_refuse(operation text, queue_id uuid, problem text) returns void
language plpgsql stable set search_path = '' as $$
declare
  word constant text := split_part(problem, ':', 1);
begin
  raise exception using
    errcode = case word when 'stale' then 'AT005' when 'unknown' then 'AT006' when 'not_processing' then 'AT007'
      else 'AT008' end,
    message = format('%s: job %s: %s', operation, coalesce(queue_id::text, 'NULL'), problem),
    detail = case word when 'not_processing' then substring(problem from '[a-z]+$')
                       when 'malformed' then substring(problem from '[a-z_]+$') else word end,
    hint = case word
      when 'stale' then 'Another run has taken the job over: throw this result away.'
      when 'unknown' then 'The job may have gone with its device.'
      when 'not_processing' then 'Only a job that a worker has claimed can end.'
      else 'Check the arguments.' end;
end $$;

create or replace function public.complete_ate_generation(queue_id uuid, file_path text, file_size bigint,
  checksum text,
                                                          encryption_key_hash text, attempt integer default null,
                                                          generated_variables jsonb default null) returns uuid
language plpgsql security definer set search_path = '' as $$
#variable_conflict use_column
declare
  answer record;
begin
  select c.ate_file_id as id, c.error as problem into answer from public.complete_ate_generations(jsonb_build_array(
    jsonb_build_object('queue_id', complete_ate_generation.queue_id, 'file_path', complete_ate_generation.file_path,
      'file_size', complete_ate_generation.file_size, 'checksum', complete_ate_generation.checksum,
      'encryption_key_hash', complete_ate_generation.encryption_key_hash, 'attempt', complete_ate_generation.attempt,
      'generated_variables', complete_ate_generation.generated_variables))) c;
  if answer.problem is not null then
    perform public.ate_refuse('complete_ate_generation', complete_ate_generation.queue_id, answer.problem);
  end if;
  return answer.id;
end $$;

-- Gives the job's new status: queued (it will run again), failed, or cancelled (a newer one is queued). A message that
-- begins with a word and a colon gives the error code.
create or replace function public.fail_ate_generation(queue_id uuid, error_message text, attempt integer default null,
                                                      permanent boolean default false,
                                                        retry_after interval default null)
returns text
language plpgsql security definer set search_path = '' set lock_timeout = '100ms' as $$
#variable_conflict use_column
declare
  job record;
  problem text;
begin
  loop
    begin
      select q.status, q.attempt into job from public.file_generation_queue q
      where q.id = fail_ate_generation.queue_id for update;
      problem := case
        when not found then 'unknown: no such job'
        when fail_ate_generation.attempt <> job.attempt then
          'stale: attempt ' || fail_ate_generation.attempt || ' is not the current one (' || job.attempt || ')'
        when job.status <> 'processing' then 'not_processing: the job is ' || job.status
        when retry_after < interval '0' then 'malformed: retry_after'
      end;
      if problem is not null then
        perform public.ate_refuse('fail_ate_generation', fail_ate_generation.queue_id, problem);
      end if;
      return (
        select p.status from public.ate_put_back(array[fail_ate_generation.queue_id], 1, coalesce(permanent, false),
          -- A little later than asked: those who were told the same moment should not all come at it.
          case when retry_after is not null then least(retry_after, interval '1 day') * (1 + random() * 0.1) end,
          coalesce(substring(fail_ate_generation.error_message from '^([a-z][a-z0-9_]{0,39}):'), 'failed'),
          coalesce(fail_ate_generation.error_message, 'no reason given')) p);
    exception when lock_not_available or deadlock_detected then
      perform pg_sleep(0.02 * random());
    end;
  end loop;
end $$;

-- A worker that stops hands its jobs back and costs them nothing. What others hold is left to its lease, in the end.
create or replace function public.release_ate_generations(worker_id text) returns integer
language plpgsql security definer set search_path = '' as $$
#variable_conflict use_column
declare
  me constant text := release_ate_generations.worker_id;
  key constant bigint := public.ate_worker_key(me);
  released constant integer := public.ate_take_back(array(
    select q.id from public.file_generation_queue q where q.lease_until is not null and q.worker_id = me),
    array[me], null, true, 0, interval '0', 'released', 'the worker stopped');
begin
  update public.ate_workers w set gone_at = clock_timestamp(), gone_reason = 'released', last_seen = clock_timestamp()
  where w.worker_id = me;
  while exists (select from pg_locks l where l.locktype = 'advisory' and l.objsubid = 1 and l.pid = pg_backend_pid()
                and (l.classid::bigint << 32 | l.objid::bigint) = key) loop
    perform pg_advisory_unlock(key);
  end loop;
  if current_setting('atelier.worker', true) = me then
    perform set_config('atelier.worker', '', false);
  end if;
  return released;
end $$;

-- One job, or the jobs of one template, that a store will not have while it takes others: it waits, pays nothing, and
-- is in nobody's way. Only what this worker holds.
create or replace function public.postpone_ate_generations(worker_id text, queue_ids uuid[], delay interval,
                                                           message text) returns integer
language plpgsql security definer set search_path = '' as $$
begin
  if delay is null or delay not between interval '0' and interval '1 day' then
    raise exception using errcode = 'AT008', detail = 'delay', hint = 'Use up to one day.',
      message = 'postpone_ate_generations: delay: must be within zero and one day';
  end if;
  return public.ate_take_back(postpone_ate_generations.queue_ids, array[postpone_ate_generations.worker_id], null, true,
    0, delay, coalesce(substring(postpone_ate_generations.message from '^([a-z][a-z0-9_]{0,39}):'), 'postponed'),
    coalesce(postpone_ate_generations.message, 'no reason given'));
end $$;

create or replace function public.renew_ate_lease(worker_id text, lease interval default '60 seconds') returns integer
language plpgsql security definer set search_path = '' as $$
#variable_conflict use_column
declare
  renewed integer;
begin
  if lease is null or lease not between interval '1 second' and interval '1 day' then
    raise exception using errcode = 'AT008', detail = 'lease', hint = 'Use one second to one day.',
      message = 'renew_ate_lease: lease: must be within one second and one day';
  end if;
  -- What another transaction holds cannot run elsewhere meanwhile, either.
  update public.file_generation_queue q set lease_until = clock_timestamp() + lease
  where q.id = any (array(
    select o.id from public.file_generation_queue o
    where o.lease_until is not null and o.worker_id = renew_ate_lease.worker_id for no key update skip locked));
  get diagnostics renewed = row_count;
  update public.ate_workers w set last_seen = clock_timestamp() where w.worker_id = renew_ate_lease.worker_id;
  return renewed;
end $$;

-- Who may call what -------------------------------------------------------------------------------------------------

do $$
declare
  f record;
begin
  for f in
    select p.oid::regprocedure as signature, p.proname as name from pg_proc p
    where p.pronamespace = 'public'::regnamespace and p.proname in (
      'ate_caller', 'ate_find_device', 'ate_judge', 'ate_file_fault', 'ate_quick', 'ate_standing', 'ate_ranked',
      'ate_entitlement',
      'ate_notify_jobs', 'ate_enqueue_jobs', 'ate_enqueue', 'ate_enqueue_behind', 'ate_request', 'ate_wake_workers',
      'ate_reason_hint', 'ate_purchased', 'ate_on_subscriptions', 'ate_on_devices', 'ate_on_licenses', 'ate_put_back',
      'ate_take_jobs', 'ate_take_back', 'ate_complete_jobs', 'complete_ate_batch', 'ate_worker_key',
      'ate_worker_tick', 'ate_refuse',
      'rescue_ate_generations', 'get_device_plan_info',
      'get_download_info', 'queue_ate_generation', 'log_download', 'claim_ate_generations', 'complete_ate_generations',
      'complete_ate_generation', 'fail_ate_generation', 'release_ate_generations',
      'postpone_ate_generations', 'renew_ate_lease')
  loop
    execute format('revoke all on function %s from public, anon, authenticated, service_role', f.signature);
    if f.name in ('get_device_plan_info', 'get_download_info', 'queue_ate_generation') then
      execute format('grant execute on function %s to authenticated, service_role', f.signature);
    elsif f.name in ('ate_entitlement', 'rescue_ate_generations', 'log_download', 'complete_ate_batch')
      or f.name ~ '_ate_(generations?|lease)$' then
      execute format('grant execute on function %s to service_role', f.signature);
    end if;
  end loop;
end $$;
select public.record_ate_migration('11_ate_helper_functions.sql', '12 68fe1f5f6d154ee1a1b5ab334b005814b73e872b842fb846bdbb448cee3b88f2');

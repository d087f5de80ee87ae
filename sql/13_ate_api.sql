-- 13_ate_api.sql: what the HTTP API, its live events and its operators' pages ask of the database, one call each.
--
-- Owns no table but ate_queue_minutes, and decides nothing: who is entitled and whether a file may be had is asked of
-- 11_ate_helper_functions.sql, whose SQLSTATEs are used here too. Safe to run again; pastes whole.
--
-- For users, as `authenticated` with their claims (the service may call them too, and sees everybody's):
--   ate_status(device_hash, template)           one row; none for an unknown or foreign device. template_id NULL: no
--                                               such template. `reason` says why not, and is NULL when is_ready: a
--                                               reason of ate_entitlement, or no_template, no_file, pending,
--                                               file_expired, beyond_plan, file_inactive. queue_id NULL: there is no
--                                               job.
--   ate_status_members(device_hash, template)   the same as the members of a JSON object, without its braces; is_ready,
--                                               reason and ate_file_id come first. NULL where ate_status gives no row.
--   ate_download(file_id)                       one row; none for an unknown or foreign file. verdict ok; gone (not
--                                               allowed: a reason of ate_entitlement, or beyond_plan); pending
--                                               (allowed, to be built anew: pending, file_inactive); expired_renewed
--                                               (the file is over, the licence is not). `busy`: a job is queued or
--                                               running; NULL, since not asked, when the verdict is ok.
--   request_ate_generation(device_hash, template, priority)
--                                               queue_id, created (false: it was queued already); refuses as
--                                               queue_ate_generation does
--   ate_present_jobs(max_rows)                  the newest job of each of the caller's devices and templates
-- A job's `state` is queued, processing, completed or failed; a cancelled one shows as failed, with its reason. Its
-- `position` counts from 1, up to 1,000, while it is queued.
--
-- For the service alone:
--   ate_job_owners(ids)                         queue_id, user_id: whom a notification concerns
--   ate_log_downloads(entries)                  writes down responses, {id, file, person, ip, agent, status, bytes,
--                                               reached_end, age in seconds} each; an id that is there is passed over;
--                                               how many were added
--   ate_offer_downloads(entries)                the same without waiting for anybody; the ids of those that are to be
--                                               offered again, since another transaction is in the way
--   ate_queue_summary()                         a row per state and priority: jobs, how many may run now, age of the
--                                               oldest in seconds; of completed ones the last hour's (priority NULL)
--   ate_series(minutes)                         a row per minute, oldest first: completed, failed, p50 and p95 in ms of
--                                               wait (queued to claimed), run (claimed to finished) and total; a minute
--                                               that is not there is still to be counted, by a later call
--   ate_worker_list()                           workers, whether they live, and what they hold
--   ate_job_list(only_state, only_device, after_at, after_id, max_rows)
--                                               jobs of a state (NULL: any), latest first (queued: next first); `at` is
--                                               what they are sorted by: the last row's at and queue_id ask for the
--                                               next page
--   trim_ate_downloads(batch, older)            removes old rows of download_history; 0 means nothing is left

do $$ begin
  perform set_config('lock_timeout', '5s', true), set_config('client_min_messages', 'warning', true);
end $$;

-- For users ---------------------------------------------------------------------------------------------------------

-- The caller's user id; NULL for the service, which may see all. Anybody else is refused: no row is as good.
create or replace function public.ate_person() returns uuid
language plpgsql stable security definer set search_path = '' as $$
declare
  caller constant text := public.ate_caller();
begin
  if caller = 'service' then
    return null;
  end if;
  return coalesce(case when caller = 'user' then auth.uid() end, '00000000-0000-0000-0000-000000000000');
end $$;

-- The same, and without a call for whom it is asked most. As text it becomes part of the expression that asks; called
-- only from functions that pin the search_path.
create or replace function public.ate_viewer() returns uuid
language sql stable as $$
  select case when current_setting('role') = 'authenticated'
    then coalesce(auth.uid(), '00000000-0000-0000-0000-000000000000') else public.ate_person() end
$$;

-- A time as the members below have it, quoted and in UTC whatever the session's zone; NULL for NULL. What no calendar
-- has stays as it is. A body as of ate_judge.
create or replace function public.ate_json_time(moment timestamptz) returns text
language sql stable return
  case when moment >= timestamptz '0001-01-01 00:00Z' and moment < timestamptz 'infinity'
    then left(to_json(moment at time zone 'UTC')::text, -1) || 'Z"' else to_json(moment)::text end;

-- Asked more often than all else together: row after row, only what is needed, and one text, since each column of a
-- result is described, and each of a function's once more, at every call. What is worked out is worked out outside the
-- statements, which begin faster so.
create or replace function public.ate_status_members(device_hash text, template text default 'smartgram') returns text
language plpgsql stable security definer
set search_path = '' set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  moment constant timestamptz := clock_timestamp();
  person constant uuid := public.ate_viewer();
  device uuid;
  owner uuid;
  device_status text;
  trial_ends_at timestamptz;
  standing record;
  kind uuid;
  file uuid;
  filename text;
  file_size bigint;
  checksum text;
  download_count integer;
  expires_at timestamptz;
  generation_status text;
  is_active boolean;
  tools jsonb;
  job uuid;
  state text;
  stage text;
  attempt integer;
  error_code text;
  error_message text;
  queued_at timestamptz;
  updated_at timestamptz;
  place timestamptz;
  reason text;
  told text;
begin
  select d.id, d.user_id, d.status::text, d.trial_ends_at into device, owner, device_status, trial_ends_at
  from public.devices d where d.device_hash = ate_status_members.device_hash;
  if not found or person is not null and owner is distinct from person then
    return null;
  end if;
  standing := public.ate_standing(device, owner, ate_status_members.device_hash, device_status, trial_ends_at, moment);
  select t.id into kind from public.ate_templates t where t.name = ate_status_members.template;
  select f.id, f.filename, f.file_size_bytes, f.checksum, f.download_count, f.expires_at, f.generation_status,
    f.is_active, f.tools
  into file, filename, file_size, checksum, download_count, expires_at, generation_status, is_active, tools
  from public.ate_files f where f.device_id = device and f.template_id = kind;
  if kind is null then
    reason := 'no_template';
  elsif standing.reason is not null then
    reason := standing.reason;
  elsif file is null then
    reason := 'no_file';
  else
    reason := public.ate_file_fault(generation_status, is_active, expires_at, tools, standing.plan_tools, moment);
  end if;
  if reason is null then
    told := '"is_ready":true,"reason":null';
  else
    told := '"is_ready":false,"reason":"' || reason || '"';
  end if;
  if file is null then
    told := told || ',"ate_file_id":null,"filename":null,"file_size":null,"checksum":null,"download_count":null,'
      '"expires_at":null';
  else
    told := concat(told, ',"ate_file_id":"', file, '","filename":', to_json(filename), ',"file_size":', file_size,
      ',"checksum":', to_json(checksum), ',"download_count":', download_count, ',"expires_at":',
      coalesce(public.ate_json_time(expires_at), 'null'));
  end if;
  select q.id, q.status, q.stage, q.attempt, q.error_code, q.error_message, q.created_at, q.updated_at, q.sort_key
  into job, state, stage, attempt, error_code, error_message, queued_at, updated_at, place
  from public.file_generation_queue q
  where q.device_id = device and q.template_id = kind
  order by q.created_at desc limit 1;
  if not found then
    select h.id, h.status, h.attempt, h.error_code, h.error_message, h.created_at, h.finished_at
    into job, state, attempt, error_code, error_message, queued_at, updated_at
    from public.file_generation_history h
    where h.device_id = device and h.template_id = kind
    order by h.device_id, h.finished_at desc limit 1;
    if not found then
      return told || ',"job":null';
    end if;
  end if;
  return concat(told, ',"job":{"queue_id":"', job, '","state":"',
    case when state = 'cancelled' then 'failed' else state end,
    '","stage":', coalesce(to_json(stage)::text, 'null'),
    ',"position":', coalesce((case when state = 'queued' then public.ate_place(place) end)::text, 'null'),
    ',"attempt":', attempt,
    case when state = 'completed' or error_code is null then ',"error":null'
      else concat(',"error":{"code":', to_json(error_code), ',"message":',
        coalesce(to_json(error_message)::text, 'null'), '}') end,
    ',"queued_at":', public.ate_json_time(queued_at), ',"updated_at":', public.ate_json_time(updated_at), '}');
end $$;

-- The same as a row, for who asks with SQL.
create or replace function public.ate_status(device_hash text, template text default 'smartgram')
returns table (device_id uuid, template_id uuid, is_ready boolean, reason text, ate_file_id uuid, filename text,
               file_size bigint, checksum text, download_count integer, expires_at timestamptz, queue_id uuid,
               state text, stage text, "position" integer, attempt integer, error_code text, error_message text,
               queued_at timestamptz, updated_at timestamptz)
language plpgsql stable security definer rows 1
set search_path = '' set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  told constant jsonb := '{' || public.ate_status_members(ate_status.device_hash, ate_status.template) || '}';
  job constant jsonb := told -> 'job';
begin
  if told is null then
    return;
  end if;
  select d.id into device_id from public.devices d where d.device_hash = ate_status.device_hash;
  select t.id into template_id from public.ate_templates t where t.name = ate_status.template;
  is_ready := told ->> 'is_ready';
  reason := told ->> 'reason';
  ate_file_id := told ->> 'ate_file_id';
  filename := told ->> 'filename';
  file_size := told ->> 'file_size';
  checksum := told ->> 'checksum';
  download_count := told ->> 'download_count';
  expires_at := told ->> 'expires_at';
  queue_id := job ->> 'queue_id';
  state := job ->> 'state';
  stage := job ->> 'stage';
  "position" := job ->> 'position';
  attempt := job ->> 'attempt';
  error_code := job #>> '{error,code}';
  error_message := job #>> '{error,message}';
  queued_at := job ->> 'queued_at';
  updated_at := job ->> 'updated_at';
  return next;
end $$;

create or replace function public.ate_download(file_id uuid)
returns table (ate_file_id uuid, device_id uuid, device_hash text, user_id uuid, template text, verdict text,
               reason text, busy boolean, file_path text, filename text, file_size bigint, checksum text,
               container text, expires_at timestamptz, updated_at timestamptz)
language plpgsql stable security definer rows 1
set search_path = '' set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  moment constant timestamptz := clock_timestamp();
  person constant uuid := public.ate_viewer();
  kind uuid;
  file_status text;
  is_active boolean;
  tools jsonb;
  device_status text;
  trial_ends_at timestamptz;
  standing record;
begin
  select f.id, f.device_id, f.template_id, f.file_path::text, f.filename::text, f.file_size_bytes, f.checksum::text,
    f.container, f.expires_at, f.updated_at, f.generation_status::text, f.is_active, f.tools
  into ate_file_id, device_id, kind, file_path, filename, file_size, checksum, container, expires_at,
    updated_at, file_status, is_active, tools
  from public.ate_files f where f.id = ate_download.file_id;
  select d.device_hash::text, d.user_id, d.status::text, d.trial_ends_at
  into device_hash, user_id, device_status, trial_ends_at
  from public.devices d where d.id = ate_download.device_id and (person is null or d.user_id = person);
  if not found then
    return;
  end if;
  select t.name::text into template from public.ate_templates t where t.id = kind;
  standing := public.ate_standing(device_id, user_id, device_hash, device_status, trial_ends_at, moment);
  reason := coalesce(standing.reason,
    public.ate_file_fault(file_status, is_active, expires_at, tools, standing.plan_tools, moment));
  verdict := case
    when reason is null then 'ok'
    when reason = 'file_expired' then 'expired_renewed'
    when reason in ('pending', 'file_inactive') then 'pending'
    else 'gone'
  end;
  if reason is not null then
    busy := exists (
      select from public.file_generation_queue q where q.device_id = ate_download.device_id
        and q.template_id = kind and q.status = 'queued'
    ) or exists (
      select from public.file_generation_queue q where q.device_id = ate_download.device_id
        and q.template_id = kind and q.status = 'processing');
  end if;
  return next;
end $$;

create or replace function public.request_ate_generation(device_hash text, template text default 'smartgram',
  priority integer default 5)
returns table (queue_id uuid, created boolean)
language plpgsql security definer rows 1 set search_path = '' as $$
#variable_conflict use_column
begin
  return query select j.queue_id, j.created from public.ate_request(request_ate_generation.device_hash,
    request_ate_generation.template, request_ate_generation.priority) j;
end $$;

-- The newest job of each of the caller's devices and templates, as its owner sees it. The device's own hash: the one on
-- the row is that of the last claim.
drop function if exists public.ate_jobs_of(uuid[]);

create or replace function public.ate_present_jobs(max_rows integer default 200)
returns table (queue_id uuid, device_id uuid, device_hash text, template text, ate_file_id uuid, state text,
               stage text, "position" integer, attempt integer, error_code text, error_message text,
               queued_at timestamptz, updated_at timestamptz)
language plpgsql stable security definer rows 20
set search_path = '' set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  person constant uuid := public.ate_person();
begin
  return query
  with latest as (
    select q.*, d.device_hash::text as hash, t.name::text as template from public.devices d
      cross join public.ate_templates t
      cross join lateral (
        select o.id, o.device_id, o.template_id, o.status::text as status, o.stage, o.sort_key, o.attempt,
          o.error_code, o.error_message, o.created_at, o.updated_at
        from public.file_generation_queue o
        where o.device_id = d.id and o.template_id = t.id order by o.created_at desc limit 1) q
    where d.user_id = person
    order by q.updated_at desc limit least(greatest(coalesce(max_rows, 200), 0), 1000))
  select l.id, l.device_id, l.hash, l.template, f.id, case l.status when 'cancelled' then 'failed' else l.status end,
    l.stage, case when l.status = 'queued' then public.ate_place(l.sort_key) end, l.attempt, l.error_code,
    l.error_message, l.created_at, l.updated_at
  from latest l left join public.ate_files f on f.device_id = l.device_id and f.template_id = l.template_id
  order by l.updated_at, l.id;
end $$;

-- For the service ---------------------------------------------------------------------------------------------------

create or replace function public.ate_job_owners(ids uuid[]) returns table (queue_id uuid, user_id uuid)
language plpgsql stable security definer rows 50
set search_path = '' set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
  return query
  select q.id, d.user_id from public.file_generation_queue q join public.devices d on d.id = q.device_id
  where q.id = any (ate_job_owners.ids) and d.user_id is not null;
end $$;

-- Of the two below, whose subtransaction it is called in: every download of a batch, in one call. The files are locked
-- first, in the order of their ids: so does who replaces files. Rows of files that are gone with their device have
-- nowhere to go; rows that are there are counted already. Each step is a walk from a few rows to as many: what a
-- planner thinks of a list whose length it cannot know would lead over all files.
create or replace function public.ate_note_downloads(entries jsonb) returns integer
language plpgsql security definer set search_path = '' set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set enable_bitmapscan = off set jit = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  moment constant timestamptz := clock_timestamp();
  files constant uuid[] := array(
    select f.id from public.ate_files f
    where f.id = any (array(select (e ->> 'file')::uuid from jsonb_array_elements(ate_note_downloads.entries) e))
    order by f.id for no key update);
  added integer;
begin
  with given as (
    insert into public.download_history (id, ate_file_id, device_id, user_id, download_ip, user_agent, status,
      bytes_downloaded, reached_end, reason, created_at)
    select g.id, f.id, f.device_id,
      coalesce(g.person, (select d.user_id from public.devices d where d.id = f.device_id)), g.ip, g.agent, g.status,
      g.bytes, g.reached_end, g.reason, moment - g.age * interval '1 second'
    from jsonb_to_recordset(ate_note_downloads.entries) as g (id uuid, file uuid, person uuid, ip inet, agent text,
      status text, bytes bigint, reached_end boolean, reason text, age float8)
      join public.ate_files f on f.id = g.file
    where g.file = any (files)
    on conflict (id) do nothing
    returning ate_file_id, status, reached_end, created_at
  ), counted as (
    select g.ate_file_id, count(*) filter (where g.status = 'completed' and g.reached_end) as downloads,
      max(g.created_at) as last, count(*) as rows
    from given g group by g.ate_file_id
  ), noted as (
    update public.ate_files f set download_count = f.download_count + c.downloads,
      last_downloaded_at = greatest(f.last_downloaded_at, c.last)
    from counted c where f.id = c.ate_file_id
    returning c.rows
  )
  select sum(n.rows) into added from noted n;
  return coalesce(added, 0);
end $$;

-- A file goes when its device has gone, and a download asks for the file first: so this lets go, as 11 has it.
create or replace function public.ate_log_downloads(entries jsonb) returns integer
language plpgsql security definer set search_path = '' set lock_timeout = '100ms' as $$
begin
  loop
    begin
      return public.ate_note_downloads($1);
    exception when lock_not_available or deadlock_detected then
      perform pg_sleep(0.02 * random());
    end;
  end loop;
end $$;

-- The same for a front, which has others' downloads to write down, too. Gives the ids of the entries that are to be
-- offered again, since another transaction holds their files.
create or replace function public.ate_offer_downloads(entries jsonb) returns setof uuid
language plpgsql security definer rows 1 set search_path = '' set lock_timeout = '100ms' as $$
declare
  moment constant timestamptz := clock_timestamp();
  share jsonb;
begin
  begin
    perform public.ate_note_downloads($1);
    return;
  exception when lock_not_available or deadlock_detected then
    perform set_config('lock_timeout', '5ms', true);
  end;
  for share in
    select jsonb_agg(e) from jsonb_array_elements($1) e group by e ->> 'file' order by random()
  loop
    begin
      if clock_timestamp() > moment + interval '0.4 seconds' then
        raise lock_not_available; -- or whoever waits for this one may be waited for at the wrong moment
      end if;
      perform public.ate_note_downloads(share);
    exception when lock_not_available or deadlock_detected then
      return query select (e ->> 'id')::uuid from jsonb_array_elements(share) e;
    end;
  end loop;
end $$;

create or replace function public.ate_queue_summary()
returns table (state text, priority integer, jobs bigint, ready bigint, oldest_seconds double precision)
language plpgsql security definer rows 20 set search_path = '' set enable_seqscan = off set jit = off as $$
#variable_conflict use_column
declare
  moment constant timestamptz := clock_timestamp();
begin
  return query
  select 'queued', q.priority, count(*), count(*) filter (where q.run_after <= moment),
    extract(epoch from moment - min(q.created_at))::float8
  from public.file_generation_queue q where q.status = 'queued' group by q.priority
  union all
  select 'processing', q.priority, count(*), 0::bigint, extract(epoch from moment - min(q.claimed_at))::float8
  from public.file_generation_queue q where q.status = 'processing' group by q.priority
  union all
  select q.status::text, null::integer, count(*), 0::bigint, extract(epoch from moment - min(q.finished_at))::float8
  from public.file_generation_queue q where q.status in ('failed', 'cancelled') group by q.status
  union all
  select 'completed', null::integer, sum(s.completed)::bigint, 0::bigint, null::float8 from public.ate_series(60) s;
end $$;

-- Minutes that are over do not change: each is counted once, by whoever asks first.
create table if not exists public.ate_queue_minutes (
  minute timestamptz primary key,
  completed integer not null,
  failed integer not null,
  wait_p50 real, wait_p95 real,
  run_p50 real, run_p95 real,
  total_p50 real, total_p95 real
);
comment on table public.ate_queue_minutes is 'Throughput and latency (ms) of minutes that are over, for two days';

-- The jobs that finished from one moment to another, wherever their rows are now.
create or replace function public.ate_measure(since timestamptz, until timestamptz) returns public.ate_queue_minutes
language plpgsql stable security definer set search_path = '' set enable_seqscan = off set jit = off as $$
#variable_conflict use_column
declare
  parts constant float8[] := '{0.5, 0.95}';
  minute timestamptz;
  completed integer;
  failed integer;
  wait float8[];
  run float8[];
  total float8[];
begin
  with done as (
    select q.status, q.created_at, q.claimed_at, q.finished_at from public.file_generation_queue q
    where q.finished_at >= ate_measure.since and q.finished_at < ate_measure.until
    union all
    select h.status, h.created_at, h.claimed_at, h.finished_at from public.file_generation_history h
    where h.finished_at >= ate_measure.since and h.finished_at < ate_measure.until
  ), took as (
    select d.status, extract(epoch from d.claimed_at - d.created_at)::float8 * 1000 as wait,
      extract(epoch from d.finished_at - d.claimed_at)::float8 * 1000 as run,
      extract(epoch from d.finished_at - d.created_at)::float8 * 1000 as total
    from done d
  )
  select ate_measure.since, count(*) filter (where t.status = 'completed'), count(*) filter (where t.status = 'failed'),
    percentile_cont(parts) within group (order by t.wait) filter (where t.status = 'completed') as wait,
    percentile_cont(parts) within group (order by t.run) filter (where t.status = 'completed') as run,
    percentile_cont(parts) within group (order by t.total) filter (where t.status = 'completed') as total
  into minute, completed, failed, wait, run, total from took t;
  return (minute, completed, failed, wait[1], wait[2], run[1], run[2], total[1], total[2])::public.ate_queue_minutes;
end $$;

create or replace function public.ate_series(minutes integer default 60)
returns setof public.ate_queue_minutes
language plpgsql security definer rows 60 set search_path = '' as $$
#variable_conflict use_column
declare
  began constant timestamptz := clock_timestamp();
  present constant timestamptz := date_trunc('minute', began);
  first constant timestamptz := present - least(greatest(coalesce(ate_series.minutes, 60), 1), 1440)
    * interval '1 minute';
  -- A completion has its time shortly before it is committed: the last minute is left open a little.
  settled constant timestamptz := date_trunc('minute', began - interval '5 seconds');
  missing timestamptz;
begin
  if not current_setting('transaction_read_only')::boolean
    and (select count(*) from public.ate_queue_minutes k where k.minute >= first and k.minute < settled)
      < extract(epoch from settled - first) / 60 then
    -- Who comes second finds it done. The latest first, and a second's work at most: after an hour of a million jobs
    -- that nobody looked at, a few calls bring it all.
    perform pg_advisory_xact_lock(1098149230);
    for missing in
      select g.minute from generate_series(first, settled - interval '1 minute', '1 minute') g (minute)
      where not exists (select from public.ate_queue_minutes k where k.minute = g.minute) order by g.minute desc
    loop
      insert into public.ate_queue_minutes
      select m.* from public.ate_measure(missing, missing + interval '1 minute') m on conflict (minute) do nothing;
      exit when clock_timestamp() > began + interval '1 second';
    end loop;
    delete from public.ate_queue_minutes m where m.minute < present - interval '2 days';
  end if;
  return query
  select s.* from (
    select k.* from public.ate_queue_minutes k where k.minute between first and present
    union all
    select m.* from generate_series(settled, present, '1 minute') g (minute)
      cross join lateral public.ate_measure(g.minute, g.minute + interval '1 minute') m
    where not exists (select from public.ate_queue_minutes k where k.minute = g.minute)) s
  order by s.minute;
end $$;

create or replace function public.ate_worker_list()
returns table (worker_id text, host text, pid integer, alive boolean, lock_held boolean, started_at timestamptz,
               last_seen timestamptz, gone_at timestamptz, gone_reason text, jobs integer, oldest_claim timestamptz,
               lease_until timestamptz, queue_ids uuid[])
language plpgsql stable security definer rows 20 set search_path = '' as $$
#variable_conflict use_column
begin
  return query
  select w.worker_id, w.host, w.pid,
    w.gone_at is null and case when w.lock_held then public.ate_worker_key(w.worker_id) in (
        select l.classid::bigint << 32 | l.objid::bigint from pg_locks l
        where l.locktype = 'advisory' and l.objsubid = 1 and l.granted
          and l.database = (select d.oid from pg_database d where d.datname = current_database()))
      else coalesce(greatest(w.last_seen + interval '1 minute', h.until) > clock_timestamp(), false) end,
    w.lock_held and w.gone_at is null, w.started_at, w.last_seen, w.gone_at,
    w.gone_reason, coalesce(h.jobs, 0)::integer, h.oldest, h.until, coalesce(h.ids, '{}')
  from public.ate_workers w
    left join (
      select q.worker_id, count(*) as jobs, min(q.claimed_at) as oldest, min(q.lease_until) as until,
        array_agg(q.id order by q.claimed_at) as ids
      from public.file_generation_queue q where q.lease_until is not null group by q.worker_id) h
      on h.worker_id = w.worker_id
  order by w.gone_at is not null, w.started_at desc, w.worker_id;
end $$;

create or replace function public.ate_job_list(only_state text default null, only_device text default null,
  after_at timestamptz default null, after_id uuid default null, max_rows integer default 50)
returns table (at timestamptz, queue_id uuid, device_id uuid, device_hash text, template text, state text,
               stage text, priority integer, reason text, attempt integer, retry_count integer, max_retries integer,
               worker_id text, lease_until timestamptz, run_after timestamptz, verdict text, error_code text,
               error_message text, queued_at timestamptz, claimed_at timestamptz, finished_at timestamptz,
               updated_at timestamptz)
language plpgsql stable security definer rows 50
set search_path = '' set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off as $$
#variable_conflict use_column
declare
  wanted constant text := ate_job_list.only_state;
  -- Each kind is walked along an index of its own; ids of jobs begin with their time.
  key constant text := case
    when ate_job_list.only_device is not null then 'created_at'
    when wanted is null then 'id'
    when wanted = 'queued' then 'sort_key'
    when wanted = 'processing' then 'claimed_at'
    else 'finished_at'
  end;
  kind constant text := case
    when wanted is null then 'true'
    when wanted = 'processing' then 'q.lease_until is not null'
    else format('q.status = %L', wanted)
      || case when key = 'finished_at' then ' and q.finished_at is not null' else '' end
  end;
  owner constant text := case when ate_job_list.only_device is null then 'true'
    else 'q.device_id = (select d.id from public.devices d where d.device_hash = $1)' end;
  onward constant text := case
    when key = 'id' and after_id is not null then 'q.id < $3'
    when key <> 'id' and after_at is not null then format('(q.%I, q.id) %s ($2, coalesce($3, %L))', key,
      case key when 'sort_key' then '>' else '<' end, '00000000-0000-0000-0000-000000000000')
    else 'true'
  end;
begin
  if wanted not in ('queued', 'processing', 'completed', 'failed', 'cancelled') then
    raise exception using errcode = 'AT008', detail = 'state', hint = 'Use the name of a state.',
      message = format('ate_job_list: state %s: unknown', wanted);
  end if;
  return query execute format($q$
    select %1$s, q.id, q.device_id, d.device_hash::text, t.name::text, q.status::text, q.stage, q.priority, q.reason,
      q.attempt, q.retry_count, q.max_retries, q.worker_id, q.lease_until, q.run_after, q.verdict, q.error_code,
      q.error_message, q.created_at, q.claimed_at, q.finished_at, q.updated_at
    from (
      select * from public.file_generation_queue q where %2$s and %3$s and %4$s order by %5$s limit $4) q
      join public.devices d on d.id = q.device_id
      join public.ate_templates t on t.id = q.template_id
    order by %5$s $q$,
    case key when 'id' then 'q.created_at' else format('q.%I', key) end, kind, owner, onward,
    case key when 'id' then 'q.id desc' when 'sort_key' then 'q.sort_key, q.id'
      else format('q.%I desc, q.id desc', key) end)
  using ate_job_list.only_device, after_at, after_id, least(greatest(coalesce(max_rows, 50), 1), 1000);
end $$;

create or replace function public.trim_ate_downloads(batch integer default 1000, older interval default '90 days')
returns integer
language plpgsql security definer set search_path = '' set enable_seqscan = off as $$
declare
  removed integer;
begin
  delete from public.download_history h
  where h.id in (
    select o.id from public.download_history o where o.created_at < clock_timestamp() - older
    order by o.created_at limit batch for update skip locked);
  get diagnostics removed = row_count;
  return removed;
end $$;

create index if not exists download_history_created on public.download_history (created_at);
-- Not in 10_ate_file_system.sql, whose lock on the table would keep readers out while this is built.
create index if not exists download_history_user on public.download_history (user_id, created_at desc);
-- Failures are few among many, and are looked at first.
create index if not exists file_generation_queue_failed on public.file_generation_queue (finished_at, id)
  where status in ('failed', 'cancelled');

-- Who may call what -------------------------------------------------------------------------------------------------

do $$
declare
  f record;
begin
  if not (select relrowsecurity from pg_class where oid = 'public.ate_queue_minutes'::regclass) then
    alter table public.ate_queue_minutes enable row level security;
  end if;
  revoke all on table public.ate_queue_minutes from public, anon, authenticated, service_role;
  grant select on table public.ate_queue_minutes to service_role;
  if not exists (select from pg_policies where schemaname = 'public' and tablename = 'ate_queue_minutes'
                 and policyname = 'ate_queue_minutes_service') then
    create policy ate_queue_minutes_service on public.ate_queue_minutes for select to service_role using (true);
  end if;
  for f in
    select p.oid::regprocedure as signature, p.proname as name from pg_proc p
    where p.pronamespace = 'public'::regnamespace and p.proname in (
      'ate_person', 'ate_viewer', 'ate_json_time', 'ate_status', 'ate_status_members', 'ate_download',
      'request_ate_generation',
      'ate_present_jobs', 'ate_job_owners', 'ate_note_downloads', 'ate_log_downloads', 'ate_offer_downloads',
      'ate_queue_summary', 'ate_measure', 'ate_series',
      'ate_worker_list', 'ate_job_list', 'trim_ate_downloads')
  loop
    execute format('revoke all on function %s from public, anon, authenticated, service_role', f.signature);
    if f.name in ('ate_status', 'ate_status_members', 'ate_download', 'request_ate_generation',
                  'ate_present_jobs') then
      execute format('grant execute on function %s to authenticated, service_role', f.signature);
    elsif f.name not in ('ate_person', 'ate_viewer', 'ate_json_time', 'ate_measure', 'ate_note_downloads') then
      execute format('grant execute on function %s to service_role', f.signature);
    end if;
  end loop;
end $$;
select public.record_ate_migration('13_ate_api.sql', '6 ff579c36976987043f3e70e9890cbd6fa7ffe81912194a74927c84e6ea7cbbbe');

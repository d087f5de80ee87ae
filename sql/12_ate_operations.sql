-- 12_ate_operations.sql: what operators, the keeper and live views ask of the queue, the files and the templates.
--
-- Owns publishing a template, redrive and cancel, stages of a running job, the place in the line, and the sweeps of
-- the clock: expiry, trimming, former objects. All but the place in the line are the service's alone. Must not decide
-- about entitlement or change how a job runs: that is 11_ate_helper_functions.sql, whose SQLSTATEs are used here too.

do $$ begin
  perform set_config('lock_timeout', '5s', true), set_config('client_min_messages', 'warning', true);
end $$;

-- Templates ---------------------------------------------------------------------------------------------------------

-- Publishes a version, or makes one that was published before the current one again. Other content under a version
-- that exists is refused. requeue: build the file of every entitled device anew, behind everything that is more
-- urgent.
create or replace function public.publish_ate_template(name text, version text, template_path text,
  file_structure jsonb,
  required_variables jsonb, content_sha256 text, description text default null, runtime text default 'autotouch',
  container text default 'ate1', requeue boolean default false) returns uuid
language plpgsql security definer set search_path = '' as $$
#variable_conflict use_column
declare
  fault text;
  template uuid;
  known text;
begin
  fault := case
    when publish_ate_template.name is null or publish_ate_template.name !~ '^[a-z0-9_-]{1,64}$' then 'name'
    when publish_ate_template.version is null or publish_ate_template.version !~ '^[A-Za-z0-9][A-Za-z0-9._+-]{0,19}$'
      then 'version'
    when length(coalesce(publish_ate_template.template_path, '')) not between 1 and 255 then 'template_path'
    when coalesce(jsonb_typeof(publish_ate_template.file_structure), '') <> 'array' then 'file_structure'
    when coalesce(jsonb_typeof(publish_ate_template.required_variables), '') <> 'array' then 'required_variables'
    when coalesce(publish_ate_template.content_sha256, '') !~ '^[0-9a-fA-F]{64}$' then 'content_sha256'
    when publish_ate_template.runtime !~ '^[a-z0-9_-]{1,40}$' then 'runtime'
    when publish_ate_template.container not in ('ate1', 'winzip-aes256') then 'container'
  end;
  if fault is not null then
    raise exception using errcode = 'AT008', detail = fault, hint = 'Check the template''s manifest.',
      message = format('publish_ate_template: %s: malformed', fault);
  end if;

  insert into public.ate_templates (name, version, template_path, is_active)
  values (publish_ate_template.name, publish_ate_template.version, publish_ate_template.template_path, false)
  on conflict (name) do nothing;
  select t.id into template from public.ate_templates t where t.name = publish_ate_template.name
  for no key update; -- a purchase refers to this row

  select v.content_sha256 into known from public.ate_template_versions v
  where v.template_id = template and v.version = publish_ate_template.version;
  if not found then
    insert into public.ate_template_versions (template_id, version, template_path, file_structure, required_variables,
      description, runtime, container, content_sha256)
    values (template, publish_ate_template.version, publish_ate_template.template_path,
      publish_ate_template.file_structure,
      publish_ate_template.required_variables, publish_ate_template.description,
      coalesce(publish_ate_template.runtime, 'autotouch'), coalesce(publish_ate_template.container, 'ate1'),
      lower(publish_ate_template.content_sha256));
  elsif known <> lower(publish_ate_template.content_sha256) then
    raise exception using errcode = 'AT009', detail = 'version_exists', hint = 'Give changed content a new version.',
      message = format('publish_ate_template: template %s: version %s was published with other content',
                       publish_ate_template.name, publish_ate_template.version);
  end if;

  update public.ate_templates t set
    version = v.version, template_path = publish_ate_template.template_path, file_structure = v.file_structure,
    required_variables = v.required_variables, description = v.description, runtime = v.runtime,
      container = v.container,
    content_sha256 = v.content_sha256, is_active = true, updated_at = clock_timestamp()
  from public.ate_template_versions v
  where t.id = template and v.template_id = template and v.version = publish_ate_template.version;

  if requeue then
    perform public.ate_enqueue_behind(array(
      select e.device_id from public.ate_entitlement(array(
        select d.id from public.devices d where d.status in ('active', 'trial'))) e
      where e.entitled), template, 8, 'template', true);
  end if;
  return template;
end $$;

-- Jobs --------------------------------------------------------------------------------------------------------------

-- Stops a job for good; its worker learns of it when it wants to complete. Gives true when there was something to
-- stop.
create or replace function public.cancel_ate_generation(queue_id uuid, reason text default null) returns boolean
language plpgsql security definer set search_path = '' as $$
#variable_conflict use_column
declare
  found_status text;
begin
  select q.status into found_status from public.file_generation_queue q
  where q.id = cancel_ate_generation.queue_id for update;
  if not found then
    perform public.ate_refuse('cancel_ate_generation', cancel_ate_generation.queue_id, 'unknown: no such job');
  elsif found_status not in ('queued', 'processing') then
    return false;
  end if;
  update public.file_generation_queue q set
    status = 'cancelled', lease_until = null, stage = null, updated_at = clock_timestamp(),
      finished_at = clock_timestamp(),
    error_code = 'cancelled', error_message = coalesce('cancelled: ' || cancel_ate_generation.reason, 'cancelled')
  where q.id = cancel_ate_generation.queue_id;
  perform public.ate_notify_jobs('cancelled', array[cancel_ate_generation.queue_id]);
  return true;
end $$;

-- Runs a failed or cancelled job again, with all its retries, also from the history. Gives the id of the job that
-- will run: another one where a newer is queued already.
create or replace function public.retry_ate_generation(queue_id uuid) returns uuid
language plpgsql security definer set search_path = '' set lock_timeout = '100ms' as $$
#variable_conflict use_column
declare
  job record;
  waiting uuid;
begin
  loop
    begin
      select q.status, q.device_id, q.template_id, q.priority, q.generation_params, q.max_retries into job
      from public.file_generation_queue q where q.id = retry_ate_generation.queue_id for update;
      if not found then
        select h.status, h.device_id, h.template_id, h.priority, h.generation_params, h.max_retries into job
        from public.file_generation_history h where h.id = retry_ate_generation.queue_id;
        if not found then
          perform public.ate_refuse('retry_ate_generation', retry_ate_generation.queue_id, 'unknown: no such job');
        end if;
      end if;
      if job.status = 'queued' then
        update public.file_generation_queue q set run_after = least(q.run_after, clock_timestamp()), retry_count = 0
        where q.id = retry_ate_generation.queue_id;
        perform pg_notify('ate_queue', '');
        return retry_ate_generation.queue_id;
      elsif job.status not in ('failed', 'cancelled') then
        raise exception using errcode = 'AT007', detail = job.status, hint = 'Queue a new one instead.',
          message = format('retry_ate_generation: job %s: is %s', retry_ate_generation.queue_id, job.status);
      end if;
      begin
        update public.file_generation_queue q set
          status = 'queued', retry_count = 0, run_after = clock_timestamp(), finished_at = null, reason = 'retry',
          created_at = clock_timestamp(), updated_at = clock_timestamp()
        where q.id = retry_ate_generation.queue_id
        returning q.id into waiting;
      exception when unique_violation then
        waiting := null;
      end;
      if waiting is null then
        -- A newer one is queued, which keeps its own parameters, or the row is history.
        insert into public.file_generation_queue as q (device_id, template_id, priority, reason, generation_params,
          max_retries)
        values (job.device_id, job.template_id, job.priority, 'retry', job.generation_params, job.max_retries)
        on conflict (device_id, template_id) where status = 'queued' do update set
          priority = least(q.priority, excluded.priority), run_after = least(q.run_after, excluded.run_after),
            retry_count = 0,
          updated_at = clock_timestamp()
        returning q.id into waiting;
      end if;
      perform pg_notify('ate_queue', '');
      perform public.ate_notify_jobs('queued', array[waiting]);
      return waiting;
    exception when lock_not_available or deadlock_detected then
      perform pg_sleep(0.02 * random());
    end;
  end loop;
end $$;

-- What running jobs are doing, for live views: members {queue_id, attempt, stage?, verdict?, usage?}. Members that
-- are no longer running, or in somebody else's hands, are passed over; gives the number of the others.
create or replace function public.report_ate_generations(jobs jsonb) returns integer
language plpgsql security definer set search_path = '' as $$
#variable_conflict use_column
declare
  ids uuid[];
  free constant uuid[] := array(
    select q.id from public.file_generation_queue q
    where q.id = any (array(select (e ->> 'queue_id')::uuid from jsonb_array_elements(report_ate_generations.jobs) e))
      and q.lease_until is not null
    for no key update skip locked);
begin
  with reported as (
    update public.file_generation_queue q set
      stage = coalesce(r.stage, q.stage), verdict = coalesce(r.verdict, q.verdict), usage = coalesce(r.usage, q.usage),
      updated_at = clock_timestamp()
    from (select x.* from jsonb_to_recordset(report_ate_generations.jobs)
            as x (queue_id uuid, attempt integer, stage text, verdict text, usage jsonb)
          where x.queue_id = any (free)) r
    where q.id = r.queue_id and q.lease_until is not null and q.attempt = r.attempt
    returning q.id
  )
  select array_agg(id) into ids from reported;
  perform public.ate_notify_jobs('processing', ids);
  return coalesce(cardinality(ids), 0);
end $$;

-- The place in the line of a job with that sort key, counted up to 1,000 and from where a worker has lately seen the
-- line begin: whoever asks often must not count far, nor walk what an old snapshot keeps in the index.
create or replace function public.ate_place(sort_key timestamptz) returns integer
language plpgsql stable security definer
set search_path = '' set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  start constant timestamptz := coalesce((select max(w.line_start) from public.ate_workers w
    where w.gone_at is null and w.last_seen > clock_timestamp() - interval '1 minute'), '-infinity');
begin
  return 1 + (select count(*) from (
    select from public.file_generation_queue q
    where q.status = 'queued' and q.sort_key >= start and q.sort_key < ate_place.sort_key limit 999) ahead);
end $$;

-- The place in the line, from 1; NULL when it is not waiting, or not the caller's.
create or replace function public.ate_queue_position(queue_id uuid) returns integer
language plpgsql stable security definer set search_path = '' as $$
#variable_conflict use_column
declare
  caller constant text := public.ate_caller();
begin
  return (
    select public.ate_place(q.sort_key) from public.file_generation_queue q join public.devices d on d.id = q.device_id
    where q.id = ate_queue_position.queue_id and q.status = 'queued'
      and (caller = 'service' or caller = 'user' and d.user_id = auth.uid()));
end $$;

-- Rotation: every file under that master key whose device is entitled is built anew. Template after template, where a
-- purchase goes device after device: so it makes way for those, as ate_put_back does, and begins again.
create or replace function public.requeue_ate_files(master_key_id text, priority integer default 8) returns integer
language plpgsql security definer set search_path = '' set lock_timeout = '100ms' as $$
#variable_conflict use_column
declare
  template uuid;
  queued integer := 0;
  tries integer := 0;
begin
  loop
    begin
      for template in select distinct f.template_id from public.ate_files f
        join public.ate_templates t on t.id = f.template_id
        where f.master_key_id = requeue_ate_files.master_key_id and t.is_active order by f.template_id
      loop
        queued := queued + coalesce(cardinality(public.ate_enqueue(array(
          select e.device_id from public.ate_entitlement(array(
            select f.device_id from public.ate_files f
            where f.master_key_id = requeue_ate_files.master_key_id and f.template_id = template)) e
          where e.entitled), array[template], requeue_ate_files.priority, 'rotation')), 0);
      end loop;
      return queued;
    exception
      when lock_not_available or deadlock_detected then
        queued := 0;
        perform pg_sleep(0.02 * random());
      when foreign_key_violation then
        queued := 0;
        tries := tries + 1;
        if tries = 10 then
          raise;
        end if;
    end;
  end loop;
end $$;

-- The clock's sweeps: in batches, each call a short transaction; 0 means nothing is left ----------------------------

-- Files whose time is over become inactive.
create or replace function public.expire_ate_files(batch integer default 1000) returns integer
language plpgsql security definer set search_path = '' as $$
declare
  swept integer;
begin
  update public.ate_files f set is_active = false, updated_at = clock_timestamp()
  where f.id in (
    select o.id from public.ate_files o where o.is_active and o.expires_at <= clock_timestamp()
    order by o.expires_at limit batch for update skip locked);
  get diagnostics swept = row_count;
  return swept;
end $$;

-- Finished jobs leave the queue; workers that ended long ago leave the list.
create or replace function public.trim_ate_queue(batch integer default 1000, older interval default '1 day')
  returns integer
language plpgsql security definer set search_path = '' as $$
declare
  moved integer;
  ids uuid[];
  devices uuid[];
  free uuid[];
begin
  select array_agg(o.id), array_agg(o.device_id) into ids, devices from (
    select o.id, o.device_id from public.file_generation_queue o
    where o.finished_at < clock_timestamp() - older and o.status in ('completed', 'failed', 'cancelled')
    order by o.finished_at limit batch for update skip locked) o;
  -- The history refers to them: a device that is being changed stays for the next time.
  free := array(select d.id from public.devices d where d.id = any (devices) for key share skip locked);
  with gone as (
    delete from public.file_generation_queue q
    where q.id in (
      select x.id from unnest(ids, devices) x (id, device_id) where x.device_id = any (free))
    returning q.*
  )
  insert into public.file_generation_history (id, device_id, template_id, priority, status, reason, generation_params,
    retry_count, max_retries, attempt, worker_id, plan_id, template_version, generation, verdict, usage, error_code,
    error_message, created_at, claimed_at, finished_at)
  select g.id, g.device_id, g.template_id, g.priority, g.status, g.reason, g.generation_params, g.retry_count,
    g.max_retries,
    g.attempt, g.worker_id, g.plan_id, g.template_version, g.generation, g.verdict, g.usage, g.error_code,
      g.error_message,
    g.created_at, g.claimed_at, g.finished_at
  from gone g
  on conflict (id) do nothing;
  get diagnostics moved = row_count;
  delete from public.ate_workers w where w.gone_at < clock_timestamp() - older;
  return moved;
end $$;

create or replace function public.trim_ate_history(batch integer default 1000, older interval default '90 days')
returns integer
language plpgsql security definer set search_path = '' as $$
declare
  removed integer;
begin
  delete from public.file_generation_history h
  where h.id in (
    select o.id from public.file_generation_history o where o.finished_at < clock_timestamp() - older
    order by o.finished_at limit batch for update skip locked);
  get diagnostics removed = row_count;
  return removed;
end $$;

-- Former objects whose bytes may go. The keeper deletes them from the store, then says so.
create or replace function public.list_ate_purge(batch integer default 1000, grace interval default '7 days')
returns table (version_id uuid, file_path text)
language plpgsql stable security definer set search_path = '' as $$
#variable_conflict use_column
begin
  return query
  select v.id, v.file_path::text from public.ate_file_versions v
  where v.purged_at is null and v.retired_at < clock_timestamp() - grace
    and not exists (select from public.ate_files f where f.id = v.ate_file_id and f.file_path = v.file_path)
  order by v.retired_at limit batch;
end $$;

create or replace function public.mark_ate_purged(version_ids uuid[]) returns integer
language plpgsql security definer set search_path = '' as $$
declare
  marked integer;
begin
  -- One that goes with its device right now is listed again if it does not.
  update public.ate_file_versions v set purged_at = clock_timestamp()
  where v.id = any (array(select o.id from public.ate_file_versions o
                          where o.id = any (version_ids) and o.purged_at is null for update skip locked));
  get diagnostics marked = row_count;
  return marked;
end $$;

-- Who may call what -------------------------------------------------------------------------------------------------

do $$
declare
  f record;
begin
  for f in
    select p.oid::regprocedure as signature, p.proname as name from pg_proc p
    where p.pronamespace = 'public'::regnamespace and p.proname in (
      'publish_ate_template', 'cancel_ate_generation', 'retry_ate_generation', 'report_ate_generations',
      'ate_place', 'ate_queue_position', 'requeue_ate_files', 'expire_ate_files', 'trim_ate_queue', 'trim_ate_history',
        'list_ate_purge',
      'mark_ate_purged')
  loop
    execute format('revoke all on function %s from public, anon, authenticated, service_role', f.signature);
    if f.name <> 'ate_place' then
      execute format('grant execute on function %s to service_role', f.signature);
    end if;
  end loop;
  grant execute on function public.ate_queue_position(uuid) to authenticated;
end $$;
select public.record_ate_migration('12_ate_operations.sql', '4 d9b48d9bbeb299b6fd4e3fb9ed7e6f394b6491c8850798e681d9fa4ceef89efe');

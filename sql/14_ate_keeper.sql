-- 14_ate_keeper.sql: what the keeper asks besides the sweeps of 12_ate_operations.sql and 13_ate_api.sql.
--
-- Owns the trimming of workers without a lock, whose the downloads of former times were, which expired files' bytes may
-- go and which have gone, which objects no row names, and which entitled devices lack a file that nothing else will
-- queue. All of it is the service's alone and comes in batches. Must not know a store, or decide about entitlement.
-- Safe to run again; pastes whole.

do $$ begin
  perform set_config('lock_timeout', '5s', true), set_config('client_min_messages', 'warning', true);
end $$;

-- The object whose bytes were deleted, its row kept: a new object has another path, and this says nothing of it.
alter table public.ate_files add column if not exists purged_path varchar(500);

-- On columns that another index has already: an update that leaves them alone stays as cheap as it was.
create index if not exists ate_files_ended on public.ate_files (expires_at) where not is_active;

-- Nobody notices the end of a worker without a lock; one that has not looked for work for so long is gone.
create or replace function public.trim_ate_workers(batch integer default 1000, older interval default '1 day')
  returns integer
language plpgsql security definer set search_path = '' as $$
declare
  removed integer;
begin
  delete from public.ate_workers w
  where w.worker_id in (
    select o.worker_id from public.ate_workers o
    where o.last_seen < clock_timestamp() - older and (o.gone_at is not null or not o.lock_held)
      and o.worker_id not in (select q.worker_id from public.file_generation_queue q
                              where q.lease_until is not null and q.worker_id is not null)
    limit batch for update skip locked);
  get diagnostics removed = row_count;
  return removed;
end $$;

-- Gives downloads of before download_history had user_ids to their devices' owners: a batch, the latest first, from
-- `before` on. `last` is where to go on; NULL after the last one. Those of devices that nobody owns stay as they are.
create or replace function public.give_ate_downloads(batch integer default 1000,
                                                     before timestamptz default 'infinity')
returns table (last timestamptz, given integer)
language plpgsql security definer set search_path = '' set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  seen integer;
begin
  with rows as materialized (
    -- Sorted as the index is, whose first column is always NULL here.
    select h.id, h.device_id, h.created_at from public.download_history h
    where h.user_id is null and h.created_at <= give_ate_downloads.before
    order by h.user_id, h.created_at desc limit give_ate_downloads.batch for update skip locked
  ), done as (
    update public.download_history h set user_id = d.user_id
    from rows r join public.devices d on d.id = r.device_id
    where h.id = r.id and d.user_id is not null
    returning h.id
  )
  select count(*), min(r.created_at), (select count(*) from done) into seen, last, given from rows r;
  if seen < give_ate_downloads.batch then
    last := null;
  elsif given = 0 and last = give_ate_downloads.before then
    last := last - interval '1 microsecond'; -- more of one moment than a batch, and all nobody's
  end if;
  return next;
end $$;

-- Expired files whose bytes may go, from `since` on: those before it were seen to.
create or replace function public.list_ate_expired(batch integer default 1000, grace interval default '7 days',
                                                   since timestamptz default '-infinity')
returns table (ate_file_id uuid, file_path text, expires_at timestamptz)
language plpgsql stable security definer set search_path = '' as $$
#variable_conflict use_column
begin
  return query
  select f.id, f.file_path::text, f.expires_at from public.ate_files f
  where not f.is_active and f.expires_at < clock_timestamp() - grace and f.expires_at >= since
    and f.purged_path is distinct from f.file_path
  order by f.expires_at limit batch;
end $$;

-- Says that the bytes of these files are gone; one that has another object by now, or is in somebody else's hands, is
-- passed over.
create or replace function public.mark_ate_files_purged(ate_file_ids uuid[], file_paths text[]) returns integer
language plpgsql security definer set search_path = '' as $$
#variable_conflict use_column
declare
  marked integer;
begin
  update public.ate_files f set purged_path = f.file_path
  from unnest(ate_file_ids, file_paths) as g (id, path)
  where f.id = g.id and f.file_path = g.path
    and f.id = any (array(select o.id from public.ate_files o
                          where o.id = any (ate_file_ids) for no key update skip locked));
  get diagnostics marked = row_count;
  return marked;
end $$;

-- Of these paths, those that no row names as an object that is there. By the device in the path: cheap, and wrong for
-- a device whose hash has changed since. exact: by the paths alone, which is a walk over all files and their versions.
create or replace function public.list_ate_unknown(file_paths text[], exact boolean default false)
returns setof text
language plpgsql stable security definer set search_path = '' as $$
begin
  if exact then
    return query
    select p from unnest(file_paths) p
    except select f.file_path::text from public.ate_files f
      where f.file_path = any (file_paths) and f.purged_path is distinct from f.file_path
    except select v.file_path::text from public.ate_file_versions v
      where v.file_path = any (file_paths) and v.purged_at is null;
    return;
  end if;
  return query
  select p from unnest(file_paths) p left join public.devices d on d.device_hash = split_part(p, '/', 2)
  where not exists (select from public.ate_files f
                    where f.device_id = d.id and f.file_path = p and f.purged_path is distinct from f.file_path)
    and not exists (select from public.ate_file_versions v
                    where v.device_id = d.id and v.file_path = p and v.purged_at is null);
end $$;

-- What becomes of files whose object is not in the store: built anew for a device that is entitled (the queue id tells
-- of it), else noted as gone (the reason tells why nothing is built).
create or replace function public.renew_ate_missing(ate_file_ids uuid[], file_paths text[])
returns table (ate_file_id uuid, device_hash text, queue_id uuid, reason text)
language plpgsql security definer set search_path = '' as $$
#variable_conflict use_column
declare
  lost record;
begin
  for lost in
    select f.id, f.device_id, f.template_id, f.file_path::text as path, e.device_hash as hash,
      case when not t.is_active then 'template_inactive' else e.reason end as refusal
    from unnest(renew_ate_missing.ate_file_ids, file_paths) x (id, path)
      join public.ate_files f on f.id = x.id and f.file_path = x.path
      join public.ate_templates t on t.id = f.template_id
      cross join lateral public.ate_entitlement(array[f.device_id]) e
    order by f.device_id, f.template_id
  loop
    ate_file_id := lost.id;
    device_hash := lost.hash;
    reason := lost.refusal;
    queue_id := null;
    if lost.refusal is null then
      queue_id := (public.ate_enqueue_behind(array[lost.device_id], lost.template_id, 5, 'missing', false))[1];
      continue when queue_id is null; -- a purchase that is under way
    else
      perform public.mark_ate_files_purged(array[lost.id], array[lost.path]);
    end if;
    return next;
  end loop;
end $$;

-- Walks over the devices, a batch after `after`, and queues what entitled ones lack though nothing queues it: a file
-- that was refused while an older device stood before this one, that ran out although the licence did not, that has
-- tools the plan has lost, or that is under a former master key (none is meant by NULL). `last` is where to go on;
-- NULL after the last device. A job of the last hour has had its chance, and a failure that is no refusal is the
-- operator's to redrive: this must not run a bundle that does not work every time it passes. What a purchase holds that
-- is not committed does without.
create or replace function public.renew_ate_files(after uuid default null, batch integer default 1000,
                                                  master_key_id text default null, pause interval default '1 hour')
returns table (last uuid, queued integer)
language plpgsql security definer set search_path = '' as $$
#variable_conflict use_column
declare
  devices uuid[];
  lacking uuid[];
  template uuid;
  refused constant text[] := array['bad_device_hash', 'trial_ended', 'device_not_active', 'no_subscription',
    'subscription_not_active', 'no_licence', 'licence_invalid', 'licence_expired', 'no_plan', 'too_many_devices',
    'template_inactive'];
begin
  devices := array(select d.id from public.devices d
                   where d.id > coalesce(renew_ate_files.after, '00000000-0000-0000-0000-000000000000')
                   order by d.id limit renew_ate_files.batch);
  queued := 0;
  for template, lacking in
    select w.template_id, array_agg(w.device_id) from (
      select e.device_id, t.id as template_id, f.id is null as is_new, f.master_key_id, f.is_active
          and f.generation_status = 'success' and (f.expires_at is null or f.expires_at > clock_timestamp())
          and e.plan_tools @> f.tools as is_good
      from public.ate_entitlement(devices) e
        cross join public.ate_templates t
        left join public.ate_files f on f.device_id = e.device_id and f.template_id = t.id
      where e.entitled and t.is_active) w
      left join lateral (
        select j.status, j.error_code, j.created_at from (
          select q.status, q.error_code, q.created_at from public.file_generation_queue q
          where q.device_id = w.device_id and q.template_id = w.template_id
          union all
          select h.status, h.error_code, h.created_at from public.file_generation_history h
          where h.device_id = w.device_id and h.template_id = w.template_id) j
        order by j.created_at desc limit 1) j on true
    where case
        -- What nobody ever asked for is not asked for here.
        when w.is_new then j.status = 'failed' and j.error_code = any (refused)
        when w.is_good and w.master_key_id is not distinct from
          coalesce(renew_ate_files.master_key_id, w.master_key_id) then false
        when j.status is null then true
        when j.status = 'failed' then j.error_code = any (refused)
        when j.status = 'completed' or j.error_code = 'superseded' then j.created_at < clock_timestamp() - pause
        else false
      end
    group by w.template_id order by w.template_id
  loop
    queued := queued + coalesce(cardinality(public.ate_enqueue_behind(lacking, template, 5, 'renewal', false)), 0);
  end loop;
  last := case when cardinality(devices) >= renew_ate_files.batch then devices[cardinality(devices)] end;
  return next;
end $$;

-- Who may call what -------------------------------------------------------------------------------------------------

do $$
declare
  f record;
begin
  for f in
    select p.oid::regprocedure as signature from pg_proc p
    where p.pronamespace = 'public'::regnamespace and p.proname in ('trim_ate_workers', 'list_ate_expired',
      'mark_ate_files_purged', 'list_ate_unknown', 'renew_ate_missing', 'renew_ate_files', 'give_ate_downloads')
  loop
    execute format('revoke all on function %s from public, anon, authenticated, service_role', f.signature);
    execute format('grant execute on function %s to service_role', f.signature);
  end loop;
end $$;
select public.record_ate_migration('14_ate_keeper.sql', '4 c960d62a34446194664ec47a22ac4d718514f3653db49f8ac21c2463ff2ac989');

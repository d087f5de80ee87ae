--- What a database remembers of its migrations, and whether it is a Supabase project.
--
-- Owns the table `atelier_migrations`, which files that are pasted make, too (sql/10). A file's edition tells an older
-- program from a newer one, and an older file that somebody pasted over a newer one. Of one edition, `previous` keeps
-- the checksums of what was replaced.
--
-- @module migrate.records
local edition = require("migrate.files").edition

local M = {}

local PLATFORM = "00_platform.sql" -- stands in for Supabase where it is not there

--- Makes the table.
M.CREATE = [[
create table public.atelier_migrations (
  name text primary key,
  checksum text not null,
  previous text[] not null default '{}',
  applied_at timestamptz not null default now()
);
comment on table public.atelier_migrations is
  'which SQL files of atelier this database has (edition and SHA-256), kept by atelier migrate'
]]

--- Hides it from the API. A worker may log in as a member of service_role, and looks before it starts.
M.PROTECT = [[
do $$
declare
  api text;
begin
  perform set_config('lock_timeout', '5s', true), set_config('client_min_messages', 'warning', true);
  alter table public.atelier_migrations enable row level security;
  revoke all on table public.atelier_migrations from public;
  for api in select rolname from pg_catalog.pg_roles where rolname in ('anon', 'authenticated', 'service_role') loop
    execute format('revoke all on table public.atelier_migrations from %I', api);
  end loop;
  if to_regrole('service_role') is not null then
    grant select on table public.atelier_migrations to service_role;
    drop policy if exists atelier_migrations_service on public.atelier_migrations;
    create policy atelier_migrations_service on public.atelier_migrations for select to service_role using (true);
  end if;
end $$]]

-- auth.uid() and the API roles are there, and somebody else made them: a Supabase project.
local IS_SUPABASE = [[
select exists (
  select from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
  where n.nspname = 'auth' and p.proname = 'uid' and p.pronargs = 0
    and pg_catalog.pg_get_userbyid(n.nspowner) <> current_user
) and 3 = (
  select count(*) from pg_catalog.pg_roles where rolname in ('anon', 'authenticated', 'service_role')
) as found]]

-- Asked of the catalogue, not of to_regclass(): that may answer from what this session looked up before it waited
-- for the lock, and the table that another process has made meanwhile would be made again.
local EXISTS = [[
select exists (
  select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  where n.nspname = 'public' and c.relname = 'atelier_migrations'
) as found]]

--- Records a file: $1 its name, $2 its checksum.
M.RECORD = [[
insert into public.atelier_migrations as m (name, checksum) values ($1, $2)
on conflict (name) do update set previous = array_remove(m.previous || m.checksum, excluded.checksum),
  checksum = excluded.checksum, applied_at = now()]]

--- What the database says.
-- @param conn connection
-- @treturn[1] table `by_name` (the rows), `exists` (the table does), `supabase`
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.read(conn)
  local there, message, code = conn:query(EXISTS)
  if not there then
    return nil, message, code
  end
  local records = { exists = there[1].found, by_name = {} }
  if records.exists then
    local rows
    rows, message, code = conn:query("select name, checksum, previous, applied_at from public.atelier_migrations")
    if not rows then
      return nil, message, code
    end
    for _, row in ipairs(rows) do
      records.by_name[row.name] = row
    end
  end
  local supabase
  supabase, message, code = conn:query(IS_SUPABASE)
  if not supabase then
    return nil, message, code
  end
  records.supabase = supabase[1].found
  return records
end

local function contains(list, value)
  for _, item in ipairs(list) do
    if item == value then
      return true
    end
  end
  return false
end

-- Whoever pasted the files into an editor did what was needed of the platform first: no other applies without it.
local function is_there(records)
  return records.supabase or next(records.by_name) ~= nil
end

--- How a file stands to the records.
-- @treturn string "applied", "changed", "pending", "not needed", or "newer": a later one has replaced this file
function M.state(file, records)
  local record = records.by_name[file.name]
  if not record then
    return file.name == PLATFORM and is_there(records) and "not needed" or "pending"
  elseif record.checksum == file.checksum then
    return "applied"
  end
  local ours, theirs = edition(file.checksum), edition(record.checksum)
  if ours ~= theirs then
    return theirs > ours and "newer" or "changed"
  end
  return contains(record.previous, file.checksum) and "newer" or "changed"
end

--- The names of what the database has and this program does not.
-- @treturn table list
function M.newer(files, records)
  local names = {}
  for name in pairs(records.by_name) do
    if not files[name] then
      names[#names + 1] = name
    end
  end
  for _, file in ipairs(files) do
    if M.state(file, records) == "newer" then
      names[#names + 1] = file.name
    end
  end
  table.sort(names)
  return names
end

return M

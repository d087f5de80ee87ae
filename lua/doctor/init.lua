--- Looks at everything that the service rests on and says of each what is wrong and how to mend it.
--
-- An examination is a module `doctor.NAME` with run(patient, tell): `patient` has config and, once they could be had,
-- conn and store; tell(status, what, detail, remedy) notes a finding: status "ok", "warn" or "fail".
-- @module doctor
local M = {}

--- In the order in which one thing rests on another.
M.EXAMINATIONS = { "host", "database", "keys", "tokens", "store", "templates" }

--- Examines.
-- @tparam table config see config
-- @tparam[opt] function on_finding(finding) called for each
-- @treturn table list of {part, status, what, detail, remedy}
function M.examine(config, on_finding)
  local findings, patient = {}, { config = config }
  for _, part in ipairs(M.EXAMINATIONS) do
    local function tell(status, what, detail, remedy)
      local finding = { part = part, status = status, what = what, detail = detail, remedy = remedy }
      findings[#findings + 1] = finding
      if on_finding then
        on_finding(finding)
      end
    end
    local ok, message = pcall(require("doctor." .. part).run, patient, tell)
    if not ok then
      tell("fail", "examination", tostring(message), "This is a defect: please report it.")
    end
  end
  if patient.conn then
    patient.conn:close()
  end
  if patient.store then
    patient.store:close()
  end
  return findings
end

return M

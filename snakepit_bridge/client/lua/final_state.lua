-- Library: final_state(stored) answers the final state in a task's stored result, or nil if it has none.
-- Celery writes a result's status first; a result that somebody else wrote is decoded to find it.
local function final_state(stored)
  if not stored then
    return nil
  end
  local status = string.match(stored, '^{"status": ?"(%u+)"')
  if not status then
    local read, result = pcall(cjson.decode, stored)
    status = read and type(result) == 'table' and result.status
  end
  if status == 'SUCCESS' or status == 'FAILURE' or status == 'REVOKED' then
    return status
  end
  return nil
end

-- needs: session
-- Returns the version of the session's checks, then name, check, name, …

local head = load_head()
local answer = {'checks', head.checks}
for _, part in ipairs(head.fresh and {} or redis.call('HGETALL', CHECKS)) do
  answer[#answer + 1] = part
end
return answer

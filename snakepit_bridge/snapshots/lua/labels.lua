-- needs: session
-- Returns every label: name, {token, time, author, reason}, name, …

local head = load_head()
if not published(head) then
  return {'none'}
end
local answer = {'labels'}
for i, part in ipairs(redis.call('HGETALL', LABELS)) do
  answer[i + 1] = i % 2 == 0 and cmsgpack.unpack(part) or part
end
return answer

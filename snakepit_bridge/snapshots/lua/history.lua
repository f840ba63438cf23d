-- needs: session, life
-- Returns the latest changes, newest first. ARGV: how many.

local head = load_head()
if not published(head) then
  return {'none'}
end
trim(head)
local answer = {'history'}
for _, entry in ipairs(redis.call('XREVRANGE', HISTORY, '+', '-', 'COUNT', ARGV[1])) do
  local revision, fields = read_entry(entry)
  answer[#answer + 1] = {fields.epoch .. '.' .. text(revision), fields.at, fields.author, fields.reason,
    cmsgpack.unpack(fields.changes)}
end
return answer

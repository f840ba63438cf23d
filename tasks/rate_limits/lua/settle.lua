-- needs: permits
-- Ends a call.
-- ARGV: permit, channel of the mover, then the real requests, tokens and money; '' for what stays as it was charged.
-- Answers 1, or 0 if it was settled before.

local id = ARGV[1]
local record = permit(id)
if not record then
  return 0
end
local freed = finish(id, record, {tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])})
if freed and redis.call('HEXISTS', key('waiting'), record[2]) == 1 then
  redis.call('PUBLISH', ARGV[2], record[2])
end
return 1

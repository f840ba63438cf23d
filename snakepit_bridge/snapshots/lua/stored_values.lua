-- needs: session
-- Returns every stored value of the session's variables, kept states and history: name, value, name, value, …

local head = load_head()
if not published(head) then
  return {'none'}
end
local answer = {'stored'}
local function add(flat, step)
  for i = 1, #flat, step do
    for side = 1, step - 1 do
      if flat[i + side] ~= '' then
        answer[#answer + 1] = flat[i]
        answer[#answer + 1] = flat[i + side]
      end
    end
  end
end
add(redis.call('HGETALL', VARIABLES), 2)
for _, packed in ipairs(redis.call('HVALS', LABELLED)) do
  add(cmsgpack.unpack(packed), 2)
end
for _, entry in ipairs(redis.call('XRANGE', HISTORY, '-', '+')) do
  local _, fields = read_entry(entry)
  add(cmsgpack.unpack(fields.changes), 3)
end
return answer

-- needs: session, life
-- Replaces stored values by others of the same meaning, wherever they stand; no revision is made.
-- ARGV: name, value, its replacement, name, value, its replacement, …

local head = load_head()
if not published(head) then
  return {'none'}
end
local instead = {}
for i = 1, #ARGV, 3 do
  instead[ARGV[i]] = instead[ARGV[i]] or {}
  instead[ARGV[i]][ARGV[i + 1]] = ARGV[i + 2]
end

-- Replaces values in a list of names, each with the values behind it, and returns whether there were any.
local function exchange(flat, step)
  local changed = false
  for i = 1, #flat, step do
    for side = 1, step - 1 do
      local new = instead[flat[i]] and instead[flat[i]][flat[i + side]]
      if new then
        flat[i + side], changed = new, true
      end
    end
  end
  return changed
end

local current = redis.call('HGETALL', VARIABLES)
if exchange(current, 2) then
  for i = 1, #current, 2 do
    redis.call('HSET', VARIABLES, current[i], current[i + 1])
  end
end
local labelled = redis.call('HGETALL', LABELLED)
for i = 1, #labelled, 2 do
  local state = cmsgpack.unpack(labelled[i + 1])
  if exchange(state, 2) then
    redis.call('HSET', LABELLED, labelled[i], cmsgpack.pack(state))
  end
end
-- An entry of a stream can't be changed, so that all are written anew, under their ids.
local entries, changed = redis.call('XRANGE', HISTORY, '-', '+'), false
for _, entry in ipairs(entries) do
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'changes' then
      local changes = cmsgpack.unpack(entry[2][i + 1])
      if exchange(changes, 3) then
        entry[2][i + 1], changed = cmsgpack.pack(changes), true
      end
    end
  end
end
if changed then
  redis.call('DEL', HISTORY)
  for _, entry in ipairs(entries) do
    redis.call('XADD', HISTORY, entry[1], unpack(entry[2]))
  end
end
live_as_before()
return {'replaced'}

-- Library: the fleet's audit trail, and the rules that protect targets, for every script that makes a change of it.
--
-- Its arguments are the last AUDIT_ARGS ones, which audit/trail.py builds: the keys of the trail and of the rules ('' on a
-- cluster, where no script reaches them: the client does without scripts what these functions do), where the change comes
-- from, the key of the approved request ('' if the change wasn't requested), and the target.

local AUDIT_ARGS = 5
local TRAIL, RULES, SOURCE = ARGV[#ARGV - 4], ARGV[#ARGV - 3], ARGV[#ARGV - 2]
local APPROVED, TARGET = ARGV[#ARGV - 1], ARGV[#ARGV]
-- The target without its kind.
local TARGET_NAME = string.match(TARGET or '', '^%a+:(.*)$') or ''
local NAMES_RECORDED = 50

local approval, approvers = '', ''

-- Returns whether a name matches a pattern, in which a star stands for any text.
local function matches(pattern, name)
  local escaped = string.gsub(pattern, '[%^%$%(%)%%%.%[%]%+%-%?]', '%%%0')
  return string.match(name, '^' .. string.gsub(escaped, '%*', '.*') .. '$') ~= nil
end

-- Returns the refusal to reply with if a rule protects one of the names and the change isn't approved, or nil.
-- kind: of the rules, 'session' or 'label'; found: what the target is at now.
local function protected(kind, found, ...)
  if RULES == '' or APPROVED ~= '' then
    return nil
  end
  local rules, needed, rule = redis.call('HGETALL', RULES), 0, nil
  for i = 1, #rules, 2 do
    local rule_kind, pattern = string.match(rules[i], '^(%a+):(.*)$')
    local approvals = tonumber(string.match(rules[i + 1], '^%d+'))
    for _, name in ipairs({...}) do
      if rule_kind == kind and approvals > needed and matches(pattern, name) then
        needed, rule = approvals, rules[i]
      end
    end
  end
  return rule and {'protected', rule, tostring(needed), found}
end

-- Returns the refusal to reply with if the change claims an approval that it doesn't have (any more), or nil.
local function unapproved()
  if APPROVED == '' or RULES == '' then
    return nil
  end
  local names, needed, request = {}, nil, redis.call('HGETALL', APPROVED)
  for i = 1, #request, 2 do
    local name = string.match(request[i], '^approver:(.*)$')
    if name then
      names[#names + 1] = name
    elseif request[i] == 'needed' then
      needed = tonumber(request[i + 1])
    end
  end
  if not needed or #names < needed then
    return {'unapproved'}
  end
  approval, approvers = string.match(APPROVED, '[^:]*$'), table.concat(names, '\n')
end

-- Records a change that was made, and uses up its approval. names: of what changed within the target.
local function record_change(action, actor, reason, before, after, names)
  if APPROVED ~= '' then
    redis.call('DEL', APPROVED)
  end
  if TRAIL == '' then
    return
  end
  local listed = names or {}
  local text = table.concat(listed, '\n', 1, math.min(#listed, NAMES_RECORDED))
  redis.call('XADD', TRAIL, '*', 'action', action, 'target', TARGET, 'actor', actor, 'source', SOURCE, 'reason', reason,
    'before', before, 'after', after, 'outcome', 'done', 'problem', '', 'names', text,
    'changes', tostring(#listed), 'approval', approval, 'approvers', approvers)
end

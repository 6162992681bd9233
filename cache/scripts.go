package cache

import (
	"crypto/sha1" //nolint:gosec // the name that Redis gives a script
	"encoding/hex"
)

// A script is what Redis runs as one step.
type script struct{ source, hash string }

func newScript(source string) *script {
	sum := sha1.Sum([]byte(source)) //nolint:gosec // the name that Redis gives a script
	return &script{source: source, hash: hex.EncodeToString(sum[:])}
}

// Each script works on the names of one token, which are in one cluster slot, and does the whole of one step, so that
// no other sidecar sees it half done. Each may be carried out twice without harm, in case its first reply was lost. A
// key of the wrong type counts as an unreadable value, so that a foreign key under our name cannot stop us.

// luaCommon is what the scripts share.
var luaCommon = luaLayout + `
local function get(key)
  local value = redis.pcall('GET', key)
  if type(value) ~= 'table' then return value end
  if string.find(value.err, 'WRONGTYPE', 1, true) then return '?' end
  error(value.err)
end
local function now()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end
local function isKind(value, kind) return value and string.sub(value, 1, 1) == kind end
local function fenceOf(value)
  if isKind(value, TOKEN) or isKind(value, TOMBSTONE) then return tonumber(string.sub(value, 2, FENCE_END)) or 0 end
  return 0
end
local function format(fence) return string.format('%016.0f', fence) end
local function marksOf(value, at)
  local marks = {}
  for i = 1, tonumber(string.sub(value, at + 1, at + COUNT)) or 0 do
    marks[i] = string.sub(value, at + COUNT + (i - 1) * MARK + 1, at + COUNT + i * MARK)
  end
  return marks
end
local function has(marks, mark)
  for _, m in ipairs(marks) do if m == mark then return true end end
  return false
end
-- forgotten reports whether a token with one of these marks was forgotten, as the tombstone and the list say.
local function forgotten(marks, value, list)
  local gone = get(list) or ''
  if isKind(value, TOMBSTONE) then gone = gone .. table.concat(marksOf(value, SCOPE_END)) end
  for at = 1, #gone, MARK do
    if has(marks, string.sub(gone, at, at + MARK - 1)) then return true end
  end
  return false
end
-- A lock is the fence of a lease and its owner. One without an end, or older than any fetch, is nobody's.
local function lockOf(key, oldest)
  local lock = get(key)
  local left = redis.call('PTTL', key)
  local fence = lock and tonumber(string.sub(lock, 1, 16))
  if not fence or left < 0 or fence < oldest then return nil, nil, 0 end
  return string.sub(lock, 1, 16), string.sub(lock, 17), left
end
-- wake returns the channels that are sharded: those are of other slots, so a script of its own must tell each.
local function wake(waiting, news)
  local channels, sharded = redis.pcall('SMEMBERS', waiting), {}
  redis.call('DEL', waiting)
  for _, channel in ipairs(channels) do
    if string.sub(channel, 1, #SHARDED) == SHARDED then
      table.insert(sharded, channel)
    else
      redis.call('PUBLISH', channel, news)
    end
  end
  return sharded
end
`

// acquireScript takes the lock of a key, unless there is a token other than the one to avoid, or a refusal. The holder
// of the lock gets it again.
//
// KEYS token, lock, wait, refusal
// ARGV owner, lock life ms, wait life ms, id to avoid (or empty), channel on which to be woken, 1 to ignore a refusal,
// longest fetch µs
// returns the outcome ("found", "refused", "got" or "wait"), the value (or false), its PTTL,
// the fence (got) or the lock's PTTL (wait)
var acquireScript = newScript(luaCommon + `
local value = get(KEYS[1])
local left = redis.call('PTTL', KEYS[1])
if isKind(value, TOKEN) and string.sub(value, FENCE_END + 1, ID_END) ~= ARGV[4] then
  return {'found', value, left, ''}
end
if ARGV[6] ~= '1' then
  local refusal = get(KEYS[4])
  if refusal and refusal ~= '?' then return {'refused', refusal, redis.call('PTTL', KEYS[4]), ''} end
end
local time = now()
local fence, owner, locked = lockOf(KEYS[2], time - ARGV[7])
if owner and owner ~= ARGV[1] then
  if type(redis.pcall('SADD', KEYS[3], ARGV[5])) == 'table' then
    redis.call('DEL', KEYS[3])
    redis.call('SADD', KEYS[3], ARGV[5])
  end
  redis.call('PEXPIRE', KEYS[3], ARGV[3])
  return {'wait', value, left, locked}
end
if not fence then fence = format(math.max(time, fenceOf(value) + 1)) end
redis.call('SET', KEYS[2], fence .. ARGV[1], 'PX', ARGV[2])
return {'got', value, left, fence}
`)

// endScript ends the lease of owner: with a token, with a refusal, or with nothing. A token is stored unless there is a
// newer one, or everything was forgotten since the lease began; fences tell both. Nor is it stored if it was forgotten
// itself, before it came here. A lease whose grant was not received has no fence: its token is stored if the key holds
// no token or tombstone, or in place of the token to replace, or of a tombstone that was seen before the fetch. Only
// waiting sidecars are woken: when a large fleet starts cold, telling all of them about each token would be most of
// Redis' work.
//
// KEYS token, lock, wait, refusal, renewal, list of forgotten tokens
// ARGV owner, fence (or empty), "token", "refusal" or "nothing", the token without its fence or the refusal,
// its life ms, id of the token to replace (or empty), news, longest fetch µs, fence of the newest tombstone seen before
// the fetch (or 0)
// returns 1 if stored, 0 if superseded, -1 if forgotten; the fence it has; and the sharded channels of those who
// wait
var endScript = newScript(luaCommon + `
local value = get(KEYS[1])
local time = now()
local held, owner = lockOf(KEYS[2], time - ARGV[8])
local mine = owner == ARGV[1]
local fence = ARGV[2]
if mine then fence = held end
local result = 0
if ARGV[3] == 'token' then
  local id = string.sub(ARGV[4], 1, ID_END - FENCE_END)
  local there = isKind(value, TOKEN) and string.sub(value, FENCE_END + 1, ID_END)
  if forgotten(marksOf(ARGV[4], ID_END - FENCE_END), value, KEYS[6]) then
    result = -1
  elseif there == id then
    result, fence = 1, string.sub(value, 2, FENCE_END)
  else
    local newer
    if fence ~= '' then
      -- After the longest fetch a tombstone may be gone that would have told of a forget.
      newer = tonumber(fence) > fenceOf(value) and (mine or time - fence < tonumber(ARGV[8]))
    else
      newer = not there and (not isKind(value, TOMBSTONE) or fenceOf(value) <= tonumber(ARGV[9])) or there == ARGV[6]
      fence = format(math.max(time, fenceOf(value) + 1))
    end
    if newer then
      redis.call('SET', KEYS[1], TOKEN .. fence .. ARGV[4], 'PX', ARGV[5])
      redis.call('DEL', KEYS[4], KEYS[5])
      result = 1
    elseif isKind(value, TOMBSTONE) then
      result = -1
    end
  end
elseif ARGV[3] == 'refusal' and mine and not isKind(value, TOKEN) and tonumber(fence) > fenceOf(value) then
  redis.call('SET', KEYS[4], ARGV[4], 'PX', ARGV[5])
  result = 1
end
if mine then redis.call('DEL', KEYS[2]) end
return {result, fence, wake(KEYS[3], ARGV[7])}
`)

// wakeScript wakes one sidecar through its sharded channel.
//
// KEYS channel   ARGV news
var wakeScript = newScript(`return redis.call('SPUBLISH', KEYS[1], ARGV[1])`)

// extendScript extends the lock of owner. A lock that expired, and that no other sidecar has taken since, is taken
// again.
//
// KEYS lock   ARGV owner, lock life ms, fence
var extendScript = newScript(luaCommon + `
local lock = get(KEYS[1])
if not lock or lock == ARGV[3] .. ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[3] .. ARGV[1], 'PX', ARGV[2])
  return 1
end
return 0
`)

// forgetScript puts a tombstone in the place of a token, and tells the fleet. A forget of one token leaves a newer one
// alone; so does one of every token that is told again, and it tells the fleet only if it was lost. A token that is
// forgotten while another is there goes on a list: it may be on its way here.
//
//	KEYS token, refusal, list of forgotten tokens
//	ARGV mark (or empty: every token), life of the tombstone in ms, the same where nothing is there, channel, news, the
//	     fence it had when it was told before (or empty)
//	returns the fence of what is there now, 0 for nothing
var forgetScript = newScript(luaCommon + `
local value = get(KEYS[1])
local left = redis.call('PTTL', KEYS[1])
local bury, scope, marks, fence = false, SOME, {}, fenceOf(value)
if isKind(value, TOMBSTONE) then
  scope, marks = string.sub(value, FENCE_END + 1, SCOPE_END), marksOf(value, SCOPE_END)
end
local before = tonumber(ARGV[6])
if ARGV[1] == '' then
  bury = not before or fence < before or fence == before and not isKind(value, TOMBSTONE)
  if bury then scope, marks, fence = ALL, {}, before or math.max(now(), fence + 1) end
elseif isKind(value, TOKEN) then
  bury, marks = has(marksOf(value, ID_END), ARGV[1]), {ARGV[1]}
  if not bury then
    local list = get(KEYS[3]) or ''
    if not string.find(list, ARGV[1], 1, true) then list = string.sub(list .. ARGV[1], -MAX_MARKS * MARK) end
    redis.call('SET', KEYS[3], list, 'PX', math.max(ARGV[3], redis.call('PTTL', KEYS[3])))
  end
elseif not has(marks, ARGV[1]) then
  bury = true
  table.insert(marks, ARGV[1])
  -- Tokens that were asked for after this tombstone was seen may be among those.
  if #marks > MAX_MARKS then scope, marks, fence = ALL, {}, math.max(now(), fence + 1) end
end
if bury then
  local tombstone = TOMBSTONE .. format(fence) .. scope .. string.format('%02d', #marks) .. table.concat(marks)
  local life = ARGV[2]
  if not value then life = ARGV[3] end
  redis.call('SET', KEYS[1], tombstone, 'PX', math.max(life, left))
end
if bury or not before then
  redis.call('DEL', KEYS[2])
  redis.call('PUBLISH', ARGV[4], ARGV[5])
end
return format(fence)
`)

// seedScript stores a token that this sidecar still holds, provided that Redis still has what the sidecar saw there:
// nothing, an older token, or the tombstone of the sidecar's own forget.
//
// KEYS token, list of forgotten tokens
// ARGV the token without its fence, its fence (or empty), its life ms, the fence seen (or empty: nothing)
// returns the fence it has, 0 if something else was there, -1 if it was forgotten
var seedScript = newScript(luaCommon + `
local value = get(KEYS[1])
if forgotten(marksOf(ARGV[1], ID_END - FENCE_END), value, KEYS[2]) then return -1 end
if ARGV[4] == '' and value or ARGV[4] ~= '' and fenceOf(value) ~= tonumber(ARGV[4]) then return 0 end
local fence = ARGV[2]
if fence == '' or tonumber(fence) <= fenceOf(value) then fence = format(math.max(now(), fenceOf(value) + 1)) end
redis.call('SET', KEYS[1], TOKEN .. fence .. ARGV[1], 'PX', ARGV[3])
return fence
`)

// claimScript reserves the renewal of a key. Each reservation lasts twice as long as the one before, until a token is
// stored.
//
// KEYS renewal   ARGV owner, first hold ms, longest hold ms
// returns 1 and 0, or 0 and the remaining ms of another sidecar's reservation
var claimScript = newScript(luaCommon + `
local claims, until_, owner = string.match(get(KEYS[1]) or '', '^(%d+):(%d+):(.*)$')
local time = math.floor(now() / 1000)
if owner == ARGV[1] then return {1, 0} end
local left = tonumber(until_ or 0) - time
if left > 0 and left <= tonumber(ARGV[3]) then return {0, left} end -- more if the clock was set back
claims = tonumber(claims or 0)
local hold = math.min(ARGV[2] * 2 ^ math.min(claims, 20), ARGV[3])
local value = string.format('%d:%.0f:%s', claims + 1, time + hold, ARGV[1])
redis.call('SET', KEYS[1], value, 'PX', string.format('%.0f', hold + ARGV[3]))
return {1, 0}
`)

// refreshScript keeps the newer of two refresh tokens. A stamp of the future comes from a clock that is ahead; it must
// not keep others out until then.
//
// KEYS refresh token   ARGV stamp (16 decimal digits), sealed
var refreshScript = newScript(luaCommon + `
local time = now()
local stamp = math.min(tonumber(ARGV[1]), time)
local there = tonumber(string.sub(get(KEYS[1]) or '', 1, 16)) or 0
if there > stamp and there <= time then return 0 end
redis.call('SET', KEYS[1], format(stamp) .. ARGV[2])
return 1
`)

// probeScript writes and reads, as the other scripts do.
//
// KEYS probe   ARGV life ms
var probeScript = newScript(luaCommon + `
redis.call('SET', KEYS[1], format(now()), 'PX', ARGV[1])
return get(KEYS[1])
`)

package cache

import "github.com/redis/go-redis/v9"

// The scripts each take the token's name and, where they need them, those of its lock, its waiting mark and
// its renewal mark: one cluster slot. A name of a wrong type reads as an unreadable value, so that somebody
// else's key there cannot stop us.

// acquireScript takes the lock, unless a token is there already that is not the one to avoid.
//
//	KEYS token, lock, wait   ARGV owner, lock life ms, wait life ms, entry id to avoid (8 bytes or empty), own news channel
//	returns what happened ("found", "got" or "wait"), the value (or false), its PTTL, the lock's PTTL
var acquireScript = redis.NewScript(`
local value = redis.pcall('GET', KEYS[1])
if type(value) == 'table' then value = '?' end
local left = redis.call('PTTL', KEYS[1])
if value and string.byte(value, 1) == 1 and string.sub(value, 6, 13) ~= ARGV[4] then
  return {'found', value, left, 0}
end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then
  return {'got', value, left, 0}
end
if type(redis.pcall('SADD', KEYS[3], ARGV[5])) == 'table' then
  redis.call('DEL', KEYS[3])
  redis.call('SADD', KEYS[3], ARGV[5])
end
redis.call('PEXPIRE', KEYS[3], ARGV[3])
return {'wait', value, left, redis.call('PTTL', KEYS[2])}
`)

// publishScript stores a fetched token and ends the turn. It does not store when another one has the turn by
// now, or when all tokens of the key were forgotten since the turn began. Only those that wait are told: in a large fleet
// that starts cold, news of each token to everybody would be most of what Redis does.
//
//	KEYS token, lock, wait, renewal   ARGV owner, value (or empty: just end the turn), life ms, value seen at the start, news
//	returns 1 when stored, 0 when superseded, -1 when forgotten
var publishScript = redis.NewScript(`
local turn = redis.call('GET', KEYS[2])
local mine = turn == ARGV[1]
local stored = 0
if ARGV[2] ~= '' and (mine or not turn) then
  local value = redis.pcall('GET', KEYS[1])
  if type(value) == 'string' and string.byte(value, 1) == 45 and string.sub(value, -1) == ':' and value ~= ARGV[4] then
    stored = -1
  else
    redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
    redis.call('DEL', KEYS[4])
    stored = 1
  end
end
if mine then redis.call('DEL', KEYS[2]) end
local waiting = redis.pcall('SMEMBERS', KEYS[3])
redis.call('DEL', KEYS[3])
for _, channel in ipairs(waiting) do redis.call('PUBLISH', channel, ARGV[5]) end
return stored
`)

// extendScript keeps a lock that is still ours.
//
//	KEYS lock   ARGV owner, lock life ms
var extendScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
`)

// forgetScript buries a value, if it still is the one that was seen, and tells the fleet.
//
//	KEYS token   ARGV value seen (or empty: whatever it is), tombstone, its life ms at least, news channel, news
//	returns 1 when buried, 0 when another value is there by now
var forgetScript = redis.NewScript(`
local value = redis.pcall('GET', KEYS[1])
if type(value) == 'table' then value = '?' end
local buried = 0
if ARGV[1] == '' or (value or '') == ARGV[1] then
  local life = math.max(tonumber(ARGV[3]), redis.call('PTTL', KEYS[1]))
  redis.call('SET', KEYS[1], ARGV[2], 'PX', life)
  buried = 1
end
redis.call('PUBLISH', ARGV[4], ARGV[5])
return buried
`)

//go:build race

package bench

// raceAllocations is what the race detector adds: under it, pools drop items at random.
const raceAllocations = 2

// redisTimeout is longer than the default, because the processes of a whole fleet and the load share two cores with it.
const redisTimeout = "2s"

//go:build race

package bench

// raceAllocations is what the race detector adds: it has pools forget at random.
const raceAllocations = 2

// redisTimeout is longer than the default, as the processes of a whole fleet and the load share two cores with it.
const redisTimeout = "2s"

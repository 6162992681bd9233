//go:build !race

package bench

const raceAllocations = 0

// redisTimeout is the default.
const redisTimeout = "250ms"

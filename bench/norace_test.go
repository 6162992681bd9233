//go:build !race

package bench

const raceAllocations = 0

package app

import "runtime"

// Set by the linker; see the Makefile.
var version, commit = "dev", "unknown"

// Version, Commit and GoVersion tell how this program was built.
func Version() string   { return version }
func Commit() string    { return commit }
func GoVersion() string { return runtime.Version() }

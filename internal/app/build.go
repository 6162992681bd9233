package app

import "runtime"

// Set by the linker; see the Makefile.
var version, commit = "dev", "unknown"

// Version is the version of this program, dev where none was built in.
func Version() string { return version }

// Commit is the commit that this program was built from.
func Commit() string { return commit }

// GoVersion is the version of Go that built this program.
func GoVersion() string { return runtime.Version() }

package app

import "runtime"

// Set by the linker; see the Makefile.
var version, commit = "dev", "unknown"

// Version is the version of this program, dev if none was set at build time.
func Version() string { return version }

// Commit is the commit from which this program was built.
func Commit() string { return commit }

// GoVersion is the version of Go with which this program was built.
func GoVersion() string { return runtime.Version() }

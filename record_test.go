package main

import (
	"flag"
	"os"
	"regexp"
	"strings"
	"sync"
)

// recordTo is the document that takes the counts that were seen; empty: none.
var recordTo = flag.String("record", "", "document whose tables take the counts seen")

var recording sync.Mutex

// record puts a row of a table into the document, in the place of the former row of that name.
func record(name, row string) {
	if *recordTo == "" {
		return
	}
	recording.Lock()
	defer recording.Unlock()
	doc, err := os.ReadFile(*recordTo)
	if err != nil {
		panic(err)
	}
	mark := "<!-- " + name + " -->"
	line := regexp.MustCompile(`(?m)^.*` + regexp.QuoteMeta(mark) + `$`)
	if !line.Match(doc) {
		panic("no row " + mark)
	}
	doc = line.ReplaceAllLiteral(doc, []byte(strings.TrimSpace(row)+" "+mark))
	if err := os.WriteFile(*recordTo, doc, 0o600); err != nil {
		panic(err)
	}
}

package reason

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestNothingIsRepeated: whatever the operating system refuses, the reason does not quote the request.
func TestNothingIsRepeated(t *testing.T) {
	const marker = "s3cr3t"
	_, missing := os.ReadFile(marker)
	_, long := os.ReadFile(strings.Repeat(marker, 1000))
	_, folder := os.ReadFile(t.TempDir())
	_, below := os.ReadFile(filepath.Join(os.Args[0], marker))
	_, host := net.Dial("tcp", marker+".invalid:1")
	_, port := net.Dial("tcp", "127.0.0.1:"+marker)
	_, unix := net.Dial("unix", "/"+marker)
	for _, c := range []struct {
		err  error
		want string
	}{
		{missing, "no such file or directory"},
		{long, "file name too long"},
		{folder, "is a directory"},
		{below, "not a directory"},
		{host, "the name of the host is not known"},
		{port, "the name of the host is not known"},
		{unix, "no such file or directory"},
		{fmt.Errorf(marker+": %w", context.DeadlineExceeded), "no answer in time"},
		{errors.New(marker), "it is not possible"},
	} {
		if got := Of(c.err); got != c.want {
			t.Errorf("%v: %q, want %q", c.err, got, c.want)
		}
	}
}

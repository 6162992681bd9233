package cache

import (
	"testing"
	"token-sidecar/internal/testbed"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, testbed.ProxyLeaks()...) }

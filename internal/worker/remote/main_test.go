package remote_test

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "8") // the suites mostly wait; the command line still decides
	goleak.VerifyTestMain(m)
}

package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/flock"
	"github.com/stacyvm/stacyvm/internal/node"
	"github.com/stacyvm/stacyvm/internal/space"
)

// Glance looks at what a server on this machine needs, without starting or making anything:
// whether its process lives, room on its disk, its database. It gives nothing where the data
// directory is not there, or is another user's.
func Glance(ctx context.Context, c config.Config) (checks []config.Check) {
	held, err := os.Open(filepath.Join(c.DataDir, node.ServeLock))
	if err != nil {
		return nil
	}
	_ = held.Close() // nothing was written
	mine, err := flock.Try(filepath.Join(c.DataDir, node.ServeLock))
	switch {
	case errors.Is(err, flock.ErrLocked):
		checks = append(checks, config.Warned("server", "a server's process runs on "+c.DataDir,
			"its log says why it does not answer: `journalctl --unit stacyvm`"))
	case err == nil:
		mine.Release()
		checks = append(checks, config.Failed("server", "no server runs on "+c.DataDir,
			"its log says why it ended: `journalctl --unit stacyvm`; then `systemctl start stacyvm`"))
	}
	watch, err := space.New(node.SpaceOf(c))
	if err == nil && len(watch.Problems()) > 0 {
		checks = append(checks, config.Failed("disk", strings.Join(watch.Problems(), "; "),
			"make room there: `stacyvm doctor` names the largest sandboxes"))
	}
	for _, check := range doctorDatabase(ctx, c, false) {
		if check.Level == config.Fail {
			checks = append(checks, check)
		}
	}
	return checks
}

package doctor

import (
	"errors"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// plain is an error in words for the operator of this machine, who may see its paths.
func plain(err error) string {
	var known *stacyvm.Error
	if errors.As(err, &known) && known.Message != "" {
		if known.Err != nil {
			return known.Message + " (" + known.Err.Error() + ")"
		}
		return known.Message
	}
	return err.Error()
}

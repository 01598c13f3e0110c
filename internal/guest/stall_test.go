package guest

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// TestATransferThatMovesNothingEnds: a guest that takes none of an upload, or gives none of a
// download, ends it, and a client that pauses as long does not.
func TestATransferThatMovesNothingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		l := &liar{
			read: func(stream *connect.ServerStream[guestv1.ReadResponse]) error {
				_ = stream.Send(&guestv1.ReadResponse{Part: &guestv1.ReadResponse_Info{Info: &guestv1.FileInfo{Size: 10}}})
				_ = stream.Send(&guestv1.ReadResponse{Part: &guestv1.ReadResponse_Data{Data: []byte("12345")}})
				<-release
				return nil
			},
			write: func(*connect.ClientStream[guestv1.WriteRequest]) error { <-release; return nil },
		}
		c := clientOf(t, l, ScopeFiles)
		defer close(release)
		_, body, err := c.ReadFile(t.Context(), "/f")
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		time.Sleep(2 * stallWithin) // the reader's own pause
		if n, err := body.Read(make([]byte, 10)); n != 5 || err != nil {
			t.Fatalf("%d bytes, %v", n, err)
		}
		began := time.Now()
		_, err = body.Read(make([]byte, 10))
		if wantCode(t, "download", err, stacyvm.CodeTimeout); time.Since(began) != stallWithin {
			t.Errorf("the download ended after %s", time.Since(began))
		}
		began = time.Now()
		_, err = c.WriteFile(t.Context(), "/f", 0, "", io.LimitReader(pausing{}, 1<<20))
		if wantCode(t, "upload", err, stacyvm.CodeTimeout); time.Since(began) < 2*stallWithin {
			t.Errorf("the upload ended after %s, though its client paused for longer", time.Since(began))
		}
	})
}

// pausing is an upload whose first bytes come late.
type pausing struct{}

func (pausing) Read(p []byte) (int, error) {
	time.Sleep(2 * stallWithin)
	return len(p), nil
}

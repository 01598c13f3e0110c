package guest

import (
	"context"
	"io"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
	"github.com/stacyvm/stacyvm/proto/guest/v1/guestv1connect"
)

// Records of global headers that tell, in an archive, of an entry that is not there or not whole:
// "name: reason".
const (
	OmittedRecord = "STACYVM.omitted" // no archive can hold it
	FailedRecord  = "STACYVM.failed"  // it could not be read
)

// maxFailures bounds what is taken of an unpacked archive's failures, in entries.
const maxFailures = 100

// PackFiles opens a directory as a tar archive; close the reader. ctx is the life of the reader.
// The archive is the guest's work: whoever unpacks it must expect anything of it. CodeNotFound;
// CodeInvalid: not a directory.
func (c *Client) PackFiles(ctx context.Context, path string) (io.ReadCloser, error) {
	ctx, cancel, stall := watch(ctx)
	ctx, raw := withRaw(ctx)
	request, most, release := bulk(&guestv1.PackRequest{Path: path})
	stream, err := receive[guestv1.PackResponse](ctx, c, guestv1connect.FileServicePackProcedure, request)
	if err != nil {
		defer release()
		defer cancel()
		return nil, failure(ctx, err)
	}
	r := &reader{
		ctx:     ctx,
		cancel:  cancel,
		release: release,
		stall:   stall,
		stream:  stream,
		raw:     raw,
		shape:   bytesField(1),
		data:    func() []byte { return stream.Msg().GetData() },
		most:    most,
	}
	if !r.receive() {
		err = failure(ctx, stream.Err())
		if err == nil {
			err = cut()
		}
		_ = r.Close()
		return nil, err
	}
	if r.rest = stream.Msg().GetData(); len(r.rest) > r.most {
		_ = r.Close()
		return nil, nonsense("a data frame is too large")
	}
	return r, nil
}

// UnpackFiles unpacks a tar archive into a directory, which is made when it is missing. user owns
// what is new, empty is the image's. What one entry meets is told in the answer and stops no
// other. CodeInvalid: not an archive, or body failed; CodeStorageFull. An error of body that is a
// *stacyvm.Error is returned as it is.
func (c *Client) UnpackFiles(ctx context.Context, path, user string, body io.Reader) (stacyvm.Unpacked, error) {
	unpack := callerOf[guestv1.UnpackRequest, guestv1.UnpackResponse](c, guestv1connect.FileServiceUnpackProcedure)
	header := &guestv1.UnpackHeader{Path: path, User: user}
	answer, err := upload(
		ctx,
		unpack,
		&guestv1.UnpackRequest{Part: &guestv1.UnpackRequest_Header{Header: header}},
		body,
		func(data []byte) *guestv1.UnpackRequest {
			return &guestv1.UnpackRequest{Part: &guestv1.UnpackRequest_Data{Data: data}}
		},
	)
	if err != nil {
		return stacyvm.Unpacked{}, err
	}
	unpacked := stacyvm.Unpacked{Entries: answer.GetEntries(), Failed: answer.GetFailed()}
	for _, f := range answer.GetFailures() {
		if len(unpacked.Failures) == maxFailures {
			break
		}
		unpacked.Failures = append(
			unpacked.Failures,
			stacyvm.UnpackFailure{Name: text(f.GetName(), maxText), Reason: phrase(f.GetReason())},
		)
	}
	return unpacked, nil
}

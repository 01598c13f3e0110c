package client

import (
	"context"
	"net/http"
)

// Input writes to one process's standard input. It counts the bytes, so that a write which was
// repeated after a broken connection arrives once. It is not safe for concurrent use.
type Input struct {
	client           *Client
	sandbox, process string
	offset           uint64
}

// maxInput is the most that one request carries.
const maxInput = 256 << 10

// Input opens the standard input of a process that was started with Stdin or Terminal. offset is
// the number of bytes that the process was given before; 0 for a new one.
func (c *Client) Input(sandbox, process string, offset uint64) *Input {
	return &Input{client: c, sandbox: sandbox, process: process, offset: offset}
}

// ResumeInput opens the standard input of a process after what it was given before, by whomever.
// CodeConflict: the input is closed.
func (c *Client) ResumeInput(ctx context.Context, sandbox, process string) (*Input, error) {
	in := c.Input(sandbox, process, 0)
	var answer struct {
		Received uint64 `json:"received"`
	}
	err := in.send(ctx, inputBody{}, &answer)
	in.offset = answer.Received
	return in, err
}

type inputBody struct {
	Data   []byte  `json:"data_base64,omitempty"` // encoding/json writes []byte as base64
	Offset *uint64 `json:"offset,omitempty"`
	Close  bool    `json:"close,omitempty"`
}

// Write hands data over and returns when the process's pipe took it all. CodeConflict: the input
// is closed.
func (in *Input) Write(ctx context.Context, data []byte) error {
	for len(data) > 0 {
		part := data[:min(len(data), maxInput)]
		if err := in.post(ctx, inputBody{Data: part, Offset: &in.offset}); err != nil {
			return err
		}
		in.offset += uint64(len(part))
		data = data[len(part):]
	}
	return nil
}

// Close ends the input; on a terminal it sends end-of-transmission.
func (in *Input) Close(ctx context.Context) error {
	return in.post(ctx, inputBody{Offset: &in.offset, Close: true})
}

func (in *Input) post(ctx context.Context, body inputBody) error { return in.send(ctx, body, nil) }

func (in *Input) send(ctx context.Context, body inputBody, answer any) error {
	return in.client.call(
		ctx,
		request{method: http.MethodPost, path: pathOf("sandboxes", in.sandbox, "processes", in.process, "input"),
			body: body, repeat: true, patient: true, long: true},
		answer,
	)
}

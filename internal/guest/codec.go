package guest

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// MaxFields bounds the fields of one message from a guest, and so the processes of a list: 4,000
// with short commands. An empty field costs two bytes on the wire and some hundred in memory, so
// that the size of a message alone does not bound what its decoding takes.
const MaxFields = 128 << 10

// codec is the usual protobuf encoding with bounded decoding.
type codec struct{}

// Name implements connect.Codec.
func (codec) Name() string { return "proto" }

// Marshal implements connect.Codec.
func (codec) Marshal(message any) ([]byte, error) { return codec{}.MarshalAppend(nil, message) }

// MarshalAppend spares connect a copy.
func (codec) MarshalAppend(to []byte, message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is not a protobuf message", message)
	}
	return proto.MarshalOptions{}.MarshalAppend(to, m)
}

// Unmarshal implements connect.Codec.
func (codec) Unmarshal(data []byte, message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is not a protobuf message", message)
	}
	left := MaxFields
	if err := countFields(m.ProtoReflect().Descriptor(), data, &left); err != nil {
		return err
	}
	return proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data, m)
}

// countFields walks a message before it is decoded. The protocol's messages do not contain
// themselves, so that the depth is bounded by their definition.
func countFields(descriptor protoreflect.MessageDescriptor, data []byte, left *int) error {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		size := protowire.ConsumeFieldValue(number, kind, data[n:])
		if size < 0 {
			return protowire.ParseError(size)
		}
		if *left--; *left < 0 {
			return errors.New("a message has too many fields")
		}
		field := descriptor.Fields().ByNumber(number)
		if kind == protowire.BytesType && field != nil && field.Message() != nil {
			inner, _ := protowire.ConsumeBytes(data[n:])
			if err := countFields(field.Message(), inner, left); err != nil {
				return err
			}
		}
		data = data[n+size:]
	}
	return nil
}

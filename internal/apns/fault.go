package apns

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"golang.org/x/net/http2"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

// fault is an error that knows its word for the outcome.
type fault struct {
	reason string
	// unseen: the server certainly did not look at the request, so it may go out again at once
	// (RFC 9113 sections 6.8 and 8.7).
	unseen bool
	err    error
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

// ended gives err its word when it is ctx that ended the request.
func ended(ctx context.Context, err error) error {
	switch ctx.Err() {
	case nil:
		return err
	case context.Canceled:
		return &fault{reason: "canceled", err: err}
	default:
		return &fault{reason: "timeout", err: err}
	}
}

// violation is the peer's breach of HTTP/2, for which its connection is ended with a GOAWAY.
type violation struct {
	code http2.ErrCode
	what string
}

func (v *violation) Error() string { return "http2: " + v.code.String() + ": " + v.what }

// streamError has the fields of net/http's HTTP/2 stream error, which is not exported but converts
// itself into a struct of this shape (its As method).
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e streamError) Error() string { return fmt.Sprintf("stream error, code %d", e.Code) }

// codeRefusedStream is REFUSED_STREAM: "no application processing" took place (RFC 9113 section 8.7).
const codeRefusedStream = 0x7

func refused(err error) bool {
	var stream streamError
	return errors.As(err, &stream) && stream.Code == codeRefusedStream
}

// unusable reports that the connection is no longer good for the request and that the server did not
// look at it. net/http does not export these errors; should a text change, the request becomes one for
// later instead of being sent again here, and a test fails.
func unusable(err error) bool {
	switch err.Error() {
	case "http2: client conn not usable", // found out before anything was written
		"http2: client conn could not be established",                 // closed before the first request
		"http2: Transport received Server's graceful shutdown GOAWAY": // our stream is above its last
		return true
	}
	return false
}

// certificateAlerts are the TLS alerts by which a server refuses our certificate (RFC 8446
// section 6.2): bad, unsupported, revoked, expired and unknown certificate, unknown authority,
// access denied, certificate required.
var certificateAlerts = []tls.AlertError{42, 43, 44, 45, 46, 48, 49, 116}

// classify names what went wrong below HTTP, in a bounded vocabulary. No answer came, so it is for
// later; save where the server refused our certificate.
func classify(err error) outcome.Outcome {
	o := outcome.Outcome{Kind: outcome.Later, Err: errors.New("send: " + clip(err.Error(), 200))} // GOAWAY carries foreign text
	var (
		dns     *net.DNSError
		op      *net.OpError
		known   *fault
		breach  *violation
		stream  streamError
		timeout interface{ Timeout() bool }
		verify  *tls.CertificateVerificationError
		record  tls.RecordHeaderError
	)
	isOp := errors.As(err, &op)
	switch {
	case errors.As(err, &known):
		o.Reason = known.reason
	case errors.As(err, &breach), strings.Contains(err.Error(), "connection error: "): // net/http's is not exported
		o.Reason = "http2_protocol"
	case errors.As(err, &dns):
		o.Reason = "dns"
	case isOp && op.Op == "dial":
		o.Reason = "connect"
	case isOp && op.Op == "remote error": // a TLS alert; its type is not exported, its text is shared
		o.Reason = "tls"
		if slices.ContainsFunc(certificateAlerts, func(a tls.AlertError) bool { return a.Error() == op.Err.Error() }) {
			o.Kind, o.Reason = outcome.Blocked, "certificate_refused"
		}
	case errors.As(err, &verify), errors.As(err, &record):
		o.Reason = "tls"
	case errors.As(err, &timeout) && timeout.Timeout():
		o.Reason = "timeout"
	case errors.As(err, &stream):
		o.Reason = "http2_stream"
	case strings.Contains(err.Error(), "GOAWAY"): // the type is not exported
		o.Reason = "http2_goaway"
	case strings.Contains(err.Error(), "tls: "):
		o.Reason = "tls"
	default:
		o.Reason = "connection" // cut, reset, pinged in vain, or not HTTP/2 at all
	}
	return o
}

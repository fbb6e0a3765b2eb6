package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/emersion/go-message/mail"
	"github.com/emersion/go-smtp"
)

// outgoing is a mail to send to the demo's user.
type outgoing struct {
	From    string `json:"from"` // an address, perhaps with a name
	Subject string `json:"subject"`
	Text    string `json:"text"`
}

// check returns the sender, or what is wrong in words for the person who wrote it.
func (o outgoing) check() (*mail.Address, error) {
	from, err := mail.ParseAddress(o.From)
	switch {
	case err != nil:
		return nil, errors.New("the sender must be a mail address, perhaps with a name: Ada <ada@example.org>")
	case strings.ContainsFunc(o.Subject, unicode.IsControl) || strings.ContainsFunc(o.From, unicode.IsControl):
		return nil, errors.New("sender and subject must be one line each")
	case !utf8.ValidString(o.From + o.Subject + o.Text):
		return nil, errors.New("the mail is not valid UTF-8")
	}
	return from, nil
}

// sendMail hands a mail to an SMTP server, as any mail program would.
func sendMail(ctx context.Context, addr, to string, o outgoing) error {
	from, err := o.check()
	if err != nil {
		return err
	}
	var h mail.Header
	h.SetDate(time.Now())
	h.SetAddressList("From", []*mail.Address{from})
	h.SetAddressList("To", []*mail.Address{{Address: to}})
	h.SetSubject(o.Subject)
	h.SetContentType("text/plain", map[string]string{"charset": "utf-8"})
	h.Set("Content-Transfer-Encoding", "quoted-printable")
	if err := h.GenerateMessageIDWithHostname("demo.posthorn.example"); err != nil {
		return fmt.Errorf("make a message id: %w", err)
	}
	var msg bytes.Buffer
	w, err := mail.CreateSingleInlineWriter(&msg, h)
	if err != nil {
		return fmt.Errorf("write the mail: %w", err)
	}
	if _, err := w.Write([]byte(o.Text + "\r\n")); err != nil {
		return fmt.Errorf("write the mail: %w", err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("write the mail: %w", err)
	}

	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("connect to the mail server: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	c := smtp.NewClient(conn)
	defer c.Close() //nolint:errcheck // QUIT has been answered, or the mail has failed
	if err := c.SendMail(from.Address, []string{to}, &msg); err != nil {
		return fmt.Errorf("send the mail: %w", err)
	}
	return c.Quit()
}

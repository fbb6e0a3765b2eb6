package imap

// An Envelope is a message's header as the server took it apart (RFC 9051 section 7.5.2). All texts are as in the
// message: encoded words, foreign charsets and control characters are the caller's to deal with. A missing
// field is empty.
type Envelope struct {
	Date, Subject                      string
	From, Sender, ReplyTo, To, Cc, Bcc []Address
	InReplyTo, MessageID               string
}

// An Address is one of an Envelope, or with an empty Host the begin (Mailbox is the group's name) or the end of a group.
type Address struct{ Name, Mailbox, Host string }

// String is mailbox@host, or what there is of it.
func (a Address) String() string {
	if a.Host == "" {
		return a.Mailbox
	}
	return a.Mailbox + "@" + a.Host
}

// maxAddresses bounds each list of an envelope: those beyond it are left out.
const maxAddresses = 1000

// envelope reads an ENVELOPE.
func (d *decoder) envelope() (e Envelope, err error) {
	text := func(to *string) func() error {
		return func() (err error) {
			*to, _, err = d.nstring()
			return err
		}
	}
	addresses := func(to *[]Address) func() error {
		return func() (err error) {
			*to, err = d.addresses()
			return err
		}
	}
	fields := []func() error{
		text(&e.Date), text(&e.Subject), addresses(&e.From), addresses(&e.Sender), addresses(&e.ReplyTo), addresses(&e.To),
		addresses(&e.Cc), addresses(&e.Bcc), text(&e.InReplyTo), text(&e.MessageID),
	}
	err = d.list(func() error {
		if len(fields) == 0 {
			return errSyntax
		}
		field := fields[0]
		fields = fields[1:]
		return field()
	})
	if err == nil && len(fields) > 0 {
		err = errSyntax
	}
	return e, err
}

// addresses reads a list of them, or NIL. Some servers leave the spaces between them in, some out.
func (d *decoder) addresses() (all []Address, err error) {
	if b, err := d.peek(); err != nil || b != '(' {
		_, ok, err := d.nstring()
		if err == nil && ok {
			err = errSyntax
		}
		return nil, err
	}
	if d.depth++; d.depth > maxDepth {
		return nil, errTooLong
	}
	defer func() { d.depth-- }()
	if err := d.expect('('); err != nil {
		return nil, err
	}
	for {
		if done, err := d.accept(')'); err != nil || done {
			return all, err
		}
		if _, err := d.accept(' '); err != nil {
			return nil, err
		}
		var a Address
		parts := []*string{&a.Name, new(string), &a.Mailbox, &a.Host} // the second is a source route
		err := d.list(func() error {
			if len(parts) == 0 {
				return errSyntax
			}
			var err error
			*parts[0], _, err = d.nstring()
			parts = parts[1:]
			return err
		})
		if err == nil && len(parts) > 0 {
			err = errSyntax
		}
		if err != nil {
			return nil, err
		}
		if len(all) < maxAddresses {
			all = append(all, a)
		}
	}
}

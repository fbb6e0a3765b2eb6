package imap

// An Update is something that the server says by itself, or that nobody asked for in what it answers
// (RFC 9051 section 7): one of [Exists], [Expunged], [Vanished], [Message], [Status], [Mailbox] and [Notice].
//
// A client has one stream of them, in the order in which they came, whatever command ran then. What a command
// asked for is its result, and in this stream only when nobody can tell whether it was asked for.
type Update interface{ update() }

type (
	// Exists is how many messages the selected mailbox has: more than before, mostly.
	Exists uint32
	// Expunged is the sequence number of a message that was removed. Those above it move down by one.
	Expunged uint32
	// Vanished are messages that were removed, from a server that was told ENABLE QRESYNC (RFC 7162 section 3.2.10).
	Vanished struct {
		UIDs UIDSet
		// Earlier: they were removed before the mailbox was selected.
		Earlier bool
	}
	// Notice is a status response without a tag: an alert, a code about the mailbox, or, with the status BYE, the end.
	Notice struct {
		Status string // OK, NO, BAD, BYE
		Code   string // upper case, or ""
		Args   string // of the code
		Text   string // for humans
	}
)

func (Exists) update()   {}
func (Expunged) update() {}
func (Vanished) update() {}
func (Notice) update()   {}
func (Message) update()  {}
func (Status) update()   {}
func (Mailbox) update()  {}

// Handle has f called with each [Update], from now on. It is called by the goroutine whose command or Idle reads,
// so it must return soon and give no command; it may call [Client.Interrupt].
func (c *Client) Handle(f func(Update)) {
	c.turn <- struct{}{}
	c.handle = f
	<-c.turn
}

// deliver hands an update over. The caller has the turn.
func (c *Client) deliver(u Update) {
	if c.handle != nil {
		c.handle(u)
	}
}

// update reads data that nobody asked for. ok is false for one that says nothing to us, which is not read then.
func (d *decoder) update(r response) (u Update, ok bool, err error) {
	switch r.name {
	case "EXISTS":
		return Exists(r.number), true, nil
	case "EXPUNGE":
		return Expunged(r.number), true, nil
	case "VANISHED":
		v, err := d.vanished()
		return v, true, err
	case "FETCH":
		m, err := d.message(r.number)
		return m, true, err
	case "STATUS":
		s, err := d.status()
		return s, true, err
	case "LIST":
		m, err := d.mailbox()
		return m, true, err
	}
	return nil, false, nil
}

package event

// Position is what was last told of a folder. The zero value is of one that nothing was ever told of.
type Position struct {
	// UIDValidity and UIDNext: all messages below UIDNext were told, or were there before anybody listened.
	UIDValidity, UIDNext uint32
	// ModSeq is the folder's HIGHESTMODSEQ then (RFC 7162), or 0.
	ModSeq uint64
	// Unseen counts the folder's unseen messages, or is Unknown.
	Unseen int
	// Recent are the last messages that were told, newest first, at most 16: those that a device may still show.
	Recent []uint32
}

// Look is what a folder holds, as a source saw it at one moment. It is state, not history: what came and
// went between two looks is not in it.
type Look struct {
	// Folder is the full mailbox name in UTF-8.
	Folder               string
	UIDValidity, UIDNext uint32
	// ModSeq is 0 where the server has none.
	ModSeq uint64
	// Unseen counts the unseen messages, or is Unknown.
	Unseen int
	// New are the unseen messages from the Position's UIDNext on, as NewMail events, newest first, at most MaxNew.
	New []Event
	// Gone are those of the Position's Recent that were read or removed since.
	Gone []uint32
}

// MaxNew bounds the new messages of one Look. Those beyond it are older, and told by the count alone.
const MaxNew = 100

// Package original reads what an operator has of the system that Posthorn takes over from: a copy of its
// configuration directory and a dump of its tables. It makes a Plan of it: files in our form, rows for our database,
// and a report in which every key of every file is taken, changed or dropped, with the reason.
//
// It writes nothing and connects to nothing. What it reads is bounded in size and number. A password that it read is
// in a file of the Plan or in a mail host of it, and never in the report.
//
// Nothing here is safe for concurrent use.
package original

// The bounds of what is read.
const (
	maxFiles   = 20000   // files looked at in a tree
	maxDepth   = 16      // directories below each other
	maxFile    = 1 << 20 // bytes of a configuration file
	maxKeys    = 200000  // keys of all files
	maxKeyLen  = 200     // bytes of a key that is shown
	maxRows    = 20 << 20
	maxValue   = 1 << 20 // bytes of a value in a dump
	maxColumns = 200
)

package dovecot

import (
	"errors"
	"fmt"

	"github.com/posthorn-mail/posthorn/internal/imap"
)

// noHost is the reason while the mail host's row cannot be read.
const noHost = "the settings of the mail host cannot be read: the cause is in the log"

// Reason says in a sentence, for the operator, why a registration or a look failed at the mail server, and what
// to do. What keeps us from signing in has its reasons in account.
func Reason(err error) string {
	failed, exited := errors.AsType[*ExitError](err)
	switch {
	case errors.Is(err, imap.ErrUnsupported) && exited:
		return "the mail server keeps no METADATA: set mail_attribute_dict there"
	case errors.Is(err, imap.ErrUnsupported):
		return "the mail server offers no METADATA to us: enable imap_metadata for Posthorn's address, or give its doveadm API by " +
			`"posthorn mailhost set NAME --doveadm-url"`
	case errors.Is(err, ErrKey):
		return `the mail server's doveadm API refuses the key: give its doveadm_api_key by "posthorn mailhost set NAME --doveadm-key-file"`
	case errors.Is(err, ErrUnreachable):
		return "the mail server's doveadm API cannot be reached; it is tried again"
	case errors.Is(err, ErrAnswer):
		return `what answers at doveadm_url is no doveadm API: correct it by "posthorn mailhost set NAME --doveadm-url"`
	case errors.Is(err, ErrNoUser):
		return `the mail server knows no user of this login: see "posthorn user list", and doveadm user at the mail server`
	case errors.Is(err, ErrNotAllowed):
		return "doveadm_allowed_commands at the mail server leaves out what Posthorn needs: mailbox metadata get, set and unset, " +
			"mailbox status, fetch"
	case errors.Is(err, ErrNoFolder):
		return "the mailbox has no such folder any more"
	case exited:
		return fmt.Sprintf("doveadm failed at the mail server (%s): its log says why; it is tried again", failed)
	}
	return "the mail server did not do what a registration needs; it is tried again"
}

package api

import (
	"net/http"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/onboard"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// Doctor says what to examine.
type Doctor struct {
	// MailHosts names some; none for all.
	MailHosts []string `json:"mailhosts,omitempty"`
	// Login and Password sign in there; or User does, with what the server has for him.
	Login    string `json:"login,omitempty"`
	Password string `json:"password,omitempty"`
	User     string `json:"user,omitempty"`
	// NotifyURL is what the mail server calls.
	NotifyURL string `json:"notify_url,omitempty"`
	// DeliverLMTP or DeliverSMTP is the host:port to deliver a test mail to, DeliverTo its recipient.
	DeliverLMTP string `json:"deliver_lmtp,omitempty"`
	DeliverSMTP string `json:"deliver_smtp,omitempty"`
	DeliverTo   string `json:"deliver_to,omitempty"`
}

// What a Doctor answers.
type (
	// DoctorReport is the checks of the server, or of one mail host.
	DoctorReport = onboard.Report
	// DoctorCheck is one of them.
	DoctorCheck = onboard.Check
)

func (a *API) doctor(r *http.Request) (int, any, error) {
	var v Doctor
	if err := decode(r, &v); err != nil {
		return 0, nil, err
	}
	req := onboard.Request{
		MailHosts: v.MailHosts, Login: v.Login, Password: account.Password(v.Password), NotifyURL: v.NotifyURL,
		LMTP: v.DeliverLMTP, SMTP: v.DeliverSMTP, To: v.DeliverTo,
	}
	if v.User != "" {
		id, err := tenant.ParseUserID(v.User)
		if err != nil {
			return 0, nil, err
		}
		req.User = id
	}
	reports, err := a.Doctor.Examine(r.Context(), req)
	return http.StatusOK, List[DoctorReport]{Items: reports}, err
}

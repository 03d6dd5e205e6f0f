"""How a ticket is answered, part by part. {x} is the thing that the ticket is about, {ask} what the topic asks for. No logic."""

from __future__ import annotations

ADDRESS = "Dear <name>,|Hello <name>,|<name>,|Hi <name>,|Good day <name>,"
PLAIN = "Hello,|Good day,|Dear customer,|Thank you for writing."

APOLOGY = """
We apologise for the inconvenience caused by the {x}.
We are sorry for the trouble that you have had with the {x}.
Please accept our apologies for what happened with the {x}.
We regret the difficulties with the {x}.
I am sorry to hear about the {x}.
"""
THANKS = """
Thank you for contacting us about the {x}.
We have received your message concerning the {x}.
Many thanks for your enquiry about the {x}.
We are glad to help with the {x}.
Thank you for letting us know what you need for the {x}.
"""
ACT = {
    "Incident": """
Our team is looking into the failure and will restore it as soon as possible.
We have started to examine what broke and will report back today.
A specialist has been assigned to get it working again.
The failure has been reproduced and we are working on a fix.
""",
    "Problem": """
Our engineers are analysing the root cause so that it does not return.
We are comparing the earlier cases to find what they have in common.
The repeated fault has been passed to our specialists for a lasting solution.
We will trace the underlying cause and keep you informed.
""",
    "Request": """
We will gladly send you the information that you asked for.
Your request has been passed to the responsible team.
We can provide this and will send you the details shortly.
The guide that answers your question is on its way to you.
""",
    "Change": """
We will plan the change and confirm the date with you.
The adjustment has been scheduled and will be carried out after approval.
We can make this change once the details are confirmed.
Our team will prepare the new setting and tell you when it is active.
""",
}
ASK = """
Could you please send us {ask}?
To assist you better, please provide {ask}.
Please let us have {ask}.
To go on, we need {ask}.
Would you kindly share {ask}?
"""
CALL = """
Please call us at <tel_num> to discuss it.
You can reach us at <tel_num> at any time.
We would like to call you on <tel_num>; which time suits you?
If you prefer to talk, our number is <tel_num>.
Please contact us at <tel_num> if anything is unclear.
"""
TALK = """
We would be glad to arrange a call; which time suits you?
Please tell us when we may call you back.
A short call may help; please suggest a time.
"""
CLOSING = """
We will keep you informed.
Thank you for your patience.
We look forward to your reply.
Kind regards.
"""
HASTE = """
We are treating this with urgency.
Your case has been given priority.
We understand how urgent this is.
"""
# The parts of a reply, in their order. Any order may answer any ticket: that is what makes references hard to match.
ORDERS = (
    "open act ask", "open ask call", "open ask act", "open act call", "ask open call", "act ask close", "call open ask",
    "open ask close", "act call", "ask act call", "open call act", "ask call close",
)  # fmt: skip

"""Situations of the queues that deal with customers, money, goods and offers, written as in `technical.py`. No logic."""

from __future__ import annotations

CUSTOMER_SERVICE = """
# Customer, Feedback | customer survey; complaint about the call centre; chat conversation; visit of the technician; newsletter; loyalty programme; community forum; help page | the date and the name of the agent; your customer number; what a good outcome would be for you
i: My {x} was closed without an answer on {day}.
i: I was spoken to rudely about the {x} at {time}.
i: The {x} that I sent in has got lost, nobody can find it.
i: The {x} reached me in a language that I do not read.
i: Nobody turned up for the {x} and nobody called.
p: Whenever I ask about the {x} I am sent from one person to the next.
p: The {x} has gone wrong {n} times since {month}, something in your process must be broken.
p: My wish to leave the {x} is ignored every month.
r: How do I take part in the {x}?
r: Could someone call me about the {x} on {day}?
r: I would like to thank the {city} staff for the {x}, where do I send it?
r: Please let me know the opening hours for the {x}.
c: Please send the {x} by letter from now on.
c: I want the {x} in French instead.
c: Please move my {x} from {day} to {day}.
# Account, Customer | customer account; delivery address; contact record; membership; household profile; company profile; username; preferred language | the customer number; the old and the new entry; a document that shows the change
i: My {x} was deleted without my doing.
i: The {x} shows the details of a stranger since {day}.
i: I cannot save my {x}, the page answers {code}.
i: Somebody changed the {x} at {time} and it was not me.
i: My {x} has been blocked and no reason was given.
p: My {x} goes back to the old entry every few weeks.
p: Again the {x} is mixed up with that of my neighbour, what causes this?
p: For months my {x} has been wrong on each letter, however often I correct it.
r: Please tell me what is stored in my {x}.
r: How can I close my {x}?
r: Could I have a second {x} for my office in {city}?
r: I need written proof of my {x}.
c: Please change my {x}, we moved to {city}.
c: I want my {x} joined with that of my partner.
c: Please put the {x} under our new company name.
# Guidance, Information | user manual; workshop in {city}; starter guide; contract terms; service plan; privacy notice; partner programme; opening of the {city} branch | the product and its edition; the topic you care most about; how many people it is for
i: The link to the {x} leads nowhere today.
i: I was promised the {x} for {day} and it did not come.
i: The {x} I was handed is for another product.
i: My booking for the {x} was cancelled without notice.
i: Pages {n} to {n} are missing in the {x} that I got.
p: The {x} contradicts what agents say, each of them tells me something else.
p: Every year the {x} arrives after the date it is meant for.
p: The {x} is wrong in the same place in each edition.
r: Please send me the {x}.
r: Could you explain the {x} in plain words?
r: Is the {x} available in large print?
r: I have a question on the {x}, whom may I ask?
c: Please register {n} people instead of {n} for the {x}.
c: I want to change my place in the {x} to {day}.
c: Please take my name off the {x}.
# Appointment, Customer | appointment; consultation; installation visit; inspection; callback; house call; site survey; repair date | your preferred days and hours; the postcode; the name of someone on site
i: The {x} on {day} did not take place and I took a day off for it.
i: The {x} was moved without asking me.
i: The engineer left the {x} unfinished at {time}.
i: Two people came for the same {x} today.
i: The {x} ended with damage to our floor.
p: The {x} has been cancelled at short notice {n} times running.
p: Each {x} starts hours late, what is wrong with the planning?
p: The {x} keeps being booked for the wrong address.
r: I would like a {x} in {month}.
r: Could the {x} be held on a Saturday?
r: How long does a {x} take?
r: Please confirm the {x} of {day} in writing.
c: Please move the {x} from {day} to {day}.
c: We want the {x} in {city} rather than {city}.
c: Please make the {x} one hour longer.
"""

BILLING = """
# Billing, Invoice | invoice for {month}; quarterly bill; credit note; reminder letter; account statement; receipt; tax certificate; cost overview | the invoice number and the amount; the billing period; the purchase order it belongs to
i: The {x} is {amount} too high.
i: We received the {x} twice and both were debited.
i: The {x} lists services that we never ordered.
i: The {x} came with the tax number of someone else.
i: I cannot open the {x}, the file is damaged.
p: The {x} is wrong every month, always by {amount}.
p: For the {nth} time the {x} went to our old address, please find out why.
p: Discounts are missing on each {x} since {month}.
r: Please send me the {x} once more.
r: Could you explain the line of {amount} in the {x}?
r: We need the {x} as a spreadsheet.
r: When will the {x} be ready?
c: Please put our order number on the {x} from now on.
c: We want the {x} addressed to {team}.
c: Please issue the {x} per site instead of in total.
# Payment, Finance | card payment; bank transfer; direct debit; instalment; refund; deposit; foreign payment; advance payment | the date and the amount; the last digits of the card or account; the reference on the statement
i: My {x} of {amount} was taken twice.
i: The {x} failed with {code} but the money is gone.
i: Our {x} from {day} has not been booked.
i: A {x} of {amount} was made that nobody here approved.
i: The {x} was refused although the account is covered.
p: The {x} bounces each month with no reason given.
p: Our {x} is assigned to the wrong customer over and over.
p: The {x} has needed a manual fix since {month}, what is the cause?
r: Can I pay by {x}?
r: Please confirm that the {x} of {amount} arrived.
r: How long does a {x} from abroad take?
r: May we split {amount} into {n} parts by {x}?
c: Please change the account used for the {x}.
c: We want the {x} on the fifteenth instead of the first.
c: Please replace the {x} with an invoice.
# Subscription, Pricing | subscription; annual plan; licence fee; support contract; add-on; family plan; volume discount; trial period | the plan and the renewal date; the number of seats; the price you were offered
i: My {x} was renewed although I cancelled in {month}.
i: We were charged {amount} for a {x} that had ended.
i: The {x} was cut off in spite of payment.
i: The price of our {x} doubled overnight.
i: The {x} shows zero seats since {day}.
p: Every renewal of the {x} is charged at the old price.
p: The {x} switches itself back to yearly again and again.
p: Seats of our {x} are counted wrongly each month, we need this traced.
r: What does the {x} cost for {n} people?
r: Could you tell me when the {x} ends?
r: Is there a cheaper {x} for schools?
r: Please send us the terms of the {x}.
c: Please cancel the {x} at the end of {month}.
c: We want to reduce the {x} from {n} to {n} seats.
c: Please switch the {x} to monthly payment.
# Account, Tax | billing account; tax setting; payment method; cost centre; purchase order; currency; credit limit; billing contact | the customer number; the tax office letter; who may approve this on your side
i: The {x} was removed and our order is stuck.
i: The wrong {x} was used and {amount} went astray.
i: The {x} cannot be saved, {code}.
i: Our {x} is frozen since {day}.
i: The {x} of another firm appears in our account.
p: The {x} resets after every invoice run.
p: We correct the {x} month after month and it never lasts.
p: The {x} has been mixed up with the one in {city} since {month}, please find the source.
r: Which {x} do you have on file for us?
r: Please explain how the {x} is worked out.
r: Could we get a higher {x}?
r: I need a letter that confirms our {x}.
c: Please change the {x} to {team}.
c: We want a separate {x} for {city}.
c: Please set the {x} to euros from {month}.
"""

RETURNS = """
# Returns, Refund | {item}; {item} from order {order}; {item} in the wrong size; gift; second {item}; set of two {item} boxes; unopened {item}; {item} bought in {city} | the order number; photos of the item and the box; your choice of money or a new item
i: The {x} came back to me instead of reaching you.
i: The refund of {amount} for the {x} never arrived.
i: You booked the return of the {x} for somebody else.
i: The label for the {x} is rejected at the post office with {code}.
i: The {x} was collected but the shop says it was not.
p: Each time I send back the {x} the parcel gets stuck at the same depot.
p: The refund for the {x} has been promised {n} times, why does it never come?
p: Return labels fail for us every month, this time for the {x}.
r: How do I return the {x}?
r: I would like my money back for the {x}.
r: Please send a label for the {x}.
r: Can the {x} still be returned after {n} days?
c: Please pay the refund for the {x} to another account.
c: I want a voucher instead of money for the {x}.
c: Please pick up the {x} at my office rather than at home.
# Exchange, Warranty | broken {item}; faulty {item}; {item} with a scratch; used {item}; {item} that will not charge; cracked {item}; noisy {item}; {item} under warranty | the serial number; a short video of the fault; the date of purchase
i: I was sent a {x} in exchange.
i: The shop refused to take the {x} although it is one week old.
i: The replacement turned out to be a {x} too.
i: My {x} was thrown away by the repair centre.
i: I paid {amount} for the repair of a {x} that was covered.
p: This is the {nth} {x} in a row, there must be something wrong with the batch.
p: The {x} comes back from repair with the same defect every time.
p: We get a {x} in nearly every delivery since {month}.
r: May I exchange the {x} for another colour?
r: Is the {x} covered after {n} months?
r: Please tell me where to send the {x}.
r: I would like a loan unit while you mend the {x}.
c: Please change the exchange of the {x} into a refund.
c: I want the {x} swapped for model {model} instead.
c: Please deliver the replacement of the {x} to {city}.
# Delivery, Order | order {order}; parcel; delivery to {city}; pallet; missing part of order {order}; spare part; gift box; express shipment | the order number and the postcode; the tracking page; a photo of the packing
i: The {x} arrived open and empty.
i: The wrong goods were in the {x}.
i: The {x} is marked as delivered, but nothing is here.
i: Half of the {x} is missing since {day}.
i: The {x} was left in the rain at {time}.
p: The {x} is late every single time, what is wrong with that carrier?
p: We keep getting the {x} of another customer.
p: Boxes in the {x} are crushed again, for the {nth} time since {month}.
r: Where is the {x}?
r: I would like to send back the {x} as a whole, how does that work?
r: Could you check whether the {x} is complete?
r: Please tell me when the {x} will be credited.
c: Please send the {x} to {city} instead.
c: We want {n} rather than {n} pieces in the {x}.
c: Please hold the {x} until {day}.
# Returns, Order | return request; return portal; drop-off point; exchange form; refund status; return window; collection date; store credit | the return number; the name on the account; the day you handed it in
i: The {x} shows {code} and I cannot go on.
i: My {x} disappeared from the account on {day}.
i: The {x} was rejected within a minute without a reason.
i: The {x} says done, yet {amount} is missing.
i: Nobody is at the {x} that you named.
p: The {x} fails at the last step again and again.
p: Every {x} of ours ends up in manual review, we want to know why.
p: The {x} has been out of date since {month}, however often it is corrected.
r: Could you explain the {x}?
r: What is the state of my {x}?
r: I need a longer {x}, I am away until {month}.
r: Please open a {x} for order {order}.
c: Please change the {x} to {day}.
c: I want to withdraw my {x} and keep the goods.
c: Please move the {x} from {city} to {city}.
"""

SALES = """
# Sales, Pricing | enterprise plan; starter package; bundle for schools; volume licence; hardware package; support plan; reseller price list; analytics suite | the number of users; your budget and the start date; the features you cannot do without
i: The price of the {x} changed while I was ordering it.
i: The quote form for the {x} fails with {code}.
i: We were sold the {x}, but a smaller one was switched on.
i: The discount code for the {x} is refused today.
i: The offer for the {x} was withdrawn before it had run out.
p: Each quote for the {x} lists a different price, what is behind this?
p: We ask for the {x} month after month and the offer always gets lost.
p: The shop puts the wrong {x} in our basket every time.
r: Please send us an offer of the {x} for {n} people.
r: What is part of the {x}?
r: Is there a discount on the {x} for non-profit groups?
r: How does the {x} compare with the next smaller one?
c: Please raise our order of the {x} from {n} to {n} seats.
c: We want to move from the {x} to the one above it.
c: Please extend the offer for the {x} until {day}.
# Sales, Demo | product demo; trial account; pilot in {city}; sample unit; webinar; proof of concept; sandbox; evaluation kit | the use case; the names of the systems to connect; two dates that suit you
i: The {x} ended after a day instead of {n}.
i: Nobody joined our {x} at {time}.
i: The {x} will not start, {code}.
i: The {x} that reached us is empty.
i: Our {x} was deleted with all our notes.
p: The {x} breaks off at the same point each time we show it.
p: We have had to restart the {x} {n} times, please find out why.
p: Guests never get the invitation to the {x}, as in {month}.
r: We would like a {x} for our {team} team.
r: Could you arrange a {x} in {month}?
r: Is the {x} free of charge?
r: Please tell us what we need for a {x}.
c: Please move the {x} from {day} to {day}.
c: We want the {x} to include {team} as well.
c: Please extend the {x} by {n} days.
# Product, Information | integration with our shop system; smart home set; mobile app; project tool; security add-on; marketing module; hosting in {city}; training course | the products you use today; the size of your team; the country of use
i: The page on the {x} shows the wrong data sheet since {day}.
i: Your agent promised us the {x}, now it is said not to exist.
i: I cannot order the {x}, the button leads to {code}.
i: The brochure of the {x} names a price that the shop does not honour.
i: The {x} vanished from the catalogue while our order was open.
p: Every agent gives us another answer about the {x}.
p: The data sheet of the {x} is wrong in each edition since {month}.
p: We are told that the {x} is in stock, and time after time it is not.
r: Does the {x} work with what we have?
r: Please send details of the {x}.
r: How long does it take to set up the {x}?
r: Which customers of our size use the {x}?
c: Please add the {x} to our open order.
c: We want to take the {x} out of the offer.
c: Please replace the {x} in our quote with the larger one.
# Contract, Sales | framework contract; tender in {city}; partner agreement; renewal; purchase of {n} units; letter of intent; service agreement; quote of {month} | the contract number; the person who signs; the terms you wish to discuss
i: The {x} was signed with the wrong figures.
i: We have heard nothing on the {x} since {day}, the deadline has passed.
i: The {x} was sent to a competitor by mistake.
i: The file of the {x} cannot be opened, {code}.
i: The {x} was cancelled without our agreement.
p: The {x} comes back with the same error after each correction.
p: We are passed around for the {x}, every week to a new contact.
p: Terms in the {x} differ each time, there seems to be no valid version.
r: Please prepare a {x} for us.
r: Could we talk about the {x} on {day}?
r: Who is in charge of the {x}?
r: We need a summary of the {x} for our board.
c: Please change the delivery date in the {x} to {day}.
c: We want a term of {n} months in the {x}.
c: Please put the {x} in the name of our {city} branch.
"""

SHARED = """
# Customer, Order | order {order}; product; purchase; {item}; last order; package; contract; booking | the order number; the date of purchase; a copy of what you received
i: The {x} is not what I paid for.
i: Something went wrong with my {x} on {day}.
i: The {x} was cancelled and I was not told.
i: I was charged {amount} for the {x} and have nothing.
i: The {x} is incomplete.
i: My {x} cannot be found in your system.
i: The {x} was confirmed, then refused.
i: I received the wrong {x}.
p: It is the same trouble with each {x}, please find the reason.
p: The {x} goes wrong every time, since {month}.
p: I keep writing about the {x} and the error returns.
p: For the {nth} time there is a mistake in the {x}.
r: Please tell me how things stand with the {x}.
r: I have a question about the {x}.
r: Could you send me the papers of the {x}?
r: What are the terms of the {x}?
r: I would like help with the {x}.
r: Can the {x} be cancelled?
c: Please change the {x} to {n} pieces.
c: I want to alter the date of the {x} to {day}.
c: Please put another name on the {x}.
c: Please add something to the {x} before it is done.
ip: I am not content with the {x}.
ip: There is an error in the {x}, as you can see.
ip: The {x} has not been dealt with properly.
ip: I have trouble with the {x} again.
rc: I would like the {x} in {city}.
rc: Could the {x} be made out for {n} people?
rc: Please see to it that the {x} is ready by {day}.
# Account, Information | account; discount; price; voucher; address; points balance; confirmation; agreement | your customer number; what you were told and when; the message you received
i: The {x} is wrong since {day}.
i: My {x} has vanished.
i: I was refused the {x} at {time}.
i: The {x} shown is {amount} off.
i: The {x} that I got belongs to someone else.
i: I cannot use my {x}, {code}.
i: The {x} was taken away without a word.
i: Nothing came of the {x} that I was promised.
p: The {x} is corrected and then wrong again, each time.
p: Every month there is an error in the {x}.
p: Why does the {x} never match, this goes on since {month}?
p: My {x} gets lost time and again.
r: How do I get the {x}?
r: Please send me the {x} in writing.
r: Could you check the {x} for me?
r: What do I have to do for the {x}?
r: I would like to know more about the {x}.
r: Whom do I ask about the {x}?
c: Please change the {x} for {team}.
c: I want the {x} moved to my new account.
c: Please update the {x} from {month}.
c: Please swap the {x} for another one.
ip: The {x} does not seem right to me.
ip: I am unhappy with what happened to my {x}.
ip: There is something wrong with the {x}.
ip: I cannot make sense of the {x} that is shown to me.
rc: I would like the {x} for {team} too.
rc: Could you look into a better {x} for us?
rc: Please enter {city} for the {x}.
"""

"""What English users write: clause patterns, whole sentences, connectors and fillers. No logic.

DO are things to do, in the base form ("can you ..."), SAY stand alone, WHEN are events ("as soon as ..."). SENTENCES
are used as they are. A pattern belongs to exactly one intent of `data/README.md`; combinations carry the union.
"""

from __future__ import annotations

MIN_CHARS = 4
QUESTION = r"(how|where|when|why|what|which|who|is|are|am|do|does|did|can|could|would|should|has|any|at)\b"

DO = {
    "user_auth": """
reset my password
change the password on my {device}
log in with {provider}
log out on all devices
sign up with a work address
get back into my account
unlock the account of {person}
turn on two-step verification
switch off the login code on my {device}
delete my account for good
update the name on my profile
change the email i sign in with
add {person} as an admin
take away {person}'s access
give {person} read-only rights
verify my identity
sign in without a code
link my {provider} login
remove {provider} from the ways i can log in
create an account for {person}
recover my username
stay signed in on this {device}
see which devices are logged in
set up a passkey on my {device}
change my profile picture
merge my two accounts
approve the access request from {person}
log {person} out remotely
invite {person} to our workspace
switch to my other account
""",
    "order_management": """
track my order
cancel order {number}
order {count} {items}
buy {count} {items}
add {count} {items} to my basket
change the delivery address on order {number}
see what i ordered in {month}
send back the {item}
return the {items} i got on {day}
exchange the {item} for a bigger one
find out where my {item} is
move the delivery to {day}
reorder the same {items} as last time
check the status of order {number}
put the {item} order on hold
add a gift note to my order
split order {number} into two deliveries
look up the delivery date of the {item}
have the {item} left with a neighbour
upgrade order {number} to express shipping
print the return label for the {item}
ship the {item} to {place}
edit the quantity in order {number}
place an order for {items}
confirm that order {number} was received
collect the {item} in the shop instead of delivery
see my past orders
schedule a pickup for the returned {item}
take the {item} off my order
pull up the order {person} placed on {day}
""",
    "payment": """
pay the bill for {month}
pay with my {card}
get a refund for the {item}
download the invoice for {month}
replace my {card} with a new one
see what i still owe
dispute the charge of {amount}
apply a discount code
split the {amount} into monthly payments
use my gift card balance
remove the {card} from my wallet
charge the {card}
refund {amount} to the customer
correct the tax on the invoice
pay by bank transfer
check whether the {amount} payment went through
settle the open balance
fix the company name on my receipt
switch billing from monthly to yearly
see the price in euros
authorise a payment of {amount}
void the {amount} transaction
change the billing address
set up autopay with my {card}
find the receipt for the {item}
get the {amount} deposit back
add {card} as a payment method
stop the automatic charges
work out the total with tax
export all invoices from {month}
""",
    "inventory": """
check if the {item} is in stock
see how many {items} are left
restock the {items}
update the count of {items} in {warehouse}
find a shop that still has the {item}
transfer {count} {items} to {warehouse}
set the minimum stock of {items} to {count}
count the {items} on the shelf
list everything that is sold out
reserve {count} {items} from the warehouse stock
mark the {item} as out of stock
check the stock level of {items}
see which sizes of the {item} are available
write off {count} damaged {items}
book {count} new {items} into {warehouse}
compare the stock in {place} and {place2}
find out when the {items} come back in
do a stock check on {items}
look up the remaining quantity of {items}
fix the wrong stock figure for {items}
show the items that are running low
add {count} {items} to the stock list
top up the {items} in {warehouse}
tell me how full {warehouse} is
see whether {place} has any {items} left
run the stocktake for {month}
set the {item} to available again
see the stock history of the {item}
get a list of dead stock
check availability of {items} in {place}
""",
    "notification": """
send {person} an email
turn off push notifications
get a text message on {day}
remind me on {day}
stop the marketing emails
unsubscribe from the {topic} newsletter
mute the alerts until {day}
send a reminder to {person}
get alerts on my {device}
switch my reminders from email to text
text {person} about it
notify the whole team
subscribe to the {topic} updates
turn the alert sound down
email a summary to {person}
set a reminder for {day}
get a daily digest by email
message the customers in {place}
silence notifications at night
resend the message to {person}
ping {person} in the chat
get fewer emails from you
schedule an announcement for {day}
choose which alerts i receive
send a push message to everyone in {place}
let {person} know by text
turn the {topic} alerts back on
get reminders in the morning instead
forward the alert to {person}
sign up for your {topic} mailing list
""",
}

SAY = {
    "user_auth": """
my password doesn't work any more
the code never came to my {device}
i can't get into my account
it keeps saying wrong username
the login page just reloads on my {device}
i forgot which address i registered with
someone else is in my account
{person} still can't sign in
my account got locked after {count} tries
i got signed out for no reason
the reset link has expired
my {device} with the authenticator is gone
{person} left us and shouldn't have access any longer
it won't accept my fingerprint
why do i have to log in every single time
the app doesn't recognise me since {day}
i have no permission to open the settings page
there is a stranger's name on my profile
why is my account suspended
can two people share one login
does {provider} sign-in work for business accounts
registration hangs at the last step
""",
    "order_management": """
where is my {item}
my order hasn't arrived yet
the parcel has been stuck in {place} since {day}
i got the wrong {item}
order {number} is still being prepared
the {item} arrived broken
the driver left my {item} in the rain
when will the {items} be delivered
there were {count} {items} in the box instead of what i ordered
tracking hasn't moved since {day}
i ordered the {item} to the wrong address
the basket empties itself when i want to check out
is it too late to change order {number}
did {person}'s order go out already
the courier never rang on {day}
how long do i have to return the {item}
do you deliver to {place}
i bought the {item} twice by mistake
my delivery was supposed to be here on {day}
half of order {number} is missing
what happened to the {items} i ordered in {month}
the {item} doesn't fit so it has to go back
""",
    "payment": """
my {card} was declined
you charged me twice
i was billed {amount} for nothing
the refund for the {item} still isn't on my {card}
the invoice for {month} is wrong
why do i owe {amount}
the discount wasn't taken off
i paid but it still says unpaid
how much is the {item}
do you take {card}
{amount} left my bank and i don't know why
my {card} expires in {month}
when will the money be back on my {card}
the receipt shows the wrong amount
is there a fee for paying by {card}
the checkout says payment failed
tax seems too high on my bill
the bank says you took {amount} on {day}
what does the yearly plan cost
i never agreed to pay {amount}
the coupon is rejected
is the price with or without tax
""",
    "inventory": """
is the {item} still available
how many {items} are left
the {item} is out of stock again
when are the {items} back in stock
it says zero left but i need {count}
we are running low on {items}
the stock count for {items} is wrong
{warehouse} is almost empty
do you have the {item} in {place}
the app shows {count} {items} but the shelf is empty
there should be {count} {items} in {warehouse}
we have way too many {items}
are there any {items} in {warehouse}
the {items} sell faster than we can refill
which colours of the {item} do you carry right now
nobody counted the {items} since {month}
only the last {item} remains on the shelf
no shop near {place} has the {item}
how long until the {items} are replenished
{count} {items} have gone missing from {warehouse}
does {place} have more {items} than we do
is the {item} discontinued or just sold out
""",
    "notification": """
i don't get any alerts on my {device}
you send too many emails
the reminder for {day} never arrived
the {topic} newsletter goes to spam
my {device} buzzes all night because of your app
i want a message on {day}
nobody in {place} got the announcement
the alerts come hours too late
who receives the {topic} emails
why do i still get texts after opting out
the same message reached me {count} times
can reminders go to {person} too
push messages stopped since {day}
i'd rather get a text than an email
your {topic} mails keep coming though i unsubscribed
{person} says the reminder came in the wrong language
is there a weekly digest instead of single alerts
the notification links lead nowhere
no more {topic} messages please
the alert sound on my {device} is too loud
did the email to {person} go out
i missed it because no reminder popped up
""",
}

WHEN = {
    "user_auth": """
someone signs in from a new {device}
i am logged in
the account is verified
{person} changes the password
a new user registers
the login fails {count} times
the account gets locked
{person} is given admin rights
a profile is deleted
two-step verification is switched on
""",
    "order_management": """
the order ships
order {number} is delivered
the parcel with the {item} leaves {place}
a customer cancels an order
the return of the {item} arrives
the delivery is delayed
a new order comes in
the courier has the {item}
order {number} is confirmed
the {items} have been delivered
""",
    "payment": """
the payment goes through
the payment fails
the invoice is paid
the refund is done
the {card} is declined
{amount} arrives on our account
the bill is overdue
the customer has paid
the {card} is about to expire
the monthly charge is taken
""",
    "inventory": """
the {item} is back in stock
stock of {items} drops below {count}
the {items} sell out
{warehouse} runs out of {items}
the {items} are restocked
only {count} {items} are left
the stock count is finished
new {items} arrive in {warehouse}
the {item} becomes available
the shelf of {items} is empty
""",
    "notification": """
the reminder is sent
the email to {person} bounces
everyone has been notified
the customer replies to the text
{person} opens the alert
the announcement is out
i unsubscribe from the newsletter
the push message fails
the {topic} mail goes out
the alert fires
""",
}

SENTENCES = {
    "user_auth": """
pw reset pls
cant log in
Forgot my password, what now?
the code never came to my phone so I'm stuck outside
it thinks I'm a robot and won't let me in
New phone, old authenticator gone. Help!
login loop on safari, driving me mad
How do I close my account permanently?
Please make Jonas an editor, not an owner.
2fa code expired before i typed it
My daughter changed my password and won't tell me.
I see "session expired" every five minutes.
who else can see my profile?
register me as a new user
My username has a typo in it, can I fix that?
Wrong credentials, it says, but I copied them from my notes.
Sign me out everywhere, I lost my laptop on the train.
does your site support passkeys yet
I think I've been hacked, I didn't sign in from Brazil
the captcha never ends
admin rights for the new intern please
What is the minimum password length?
i got married, new last name for my profile
Let Sofia in again, she is back from leave.
magic link doesnt open the app
Single sign-on stopped working for the whole office this morning.
Reset link goes to an old address I can't open.
fingerprint sensor broke, other way in?
I made two accounts by accident
Face unlock won't set up on my tablet.
the user should be able to register with just a phone number
After three wrong attempts the account must be locked.
Only managers may see this page, so why can I?
Access denied. I'm the owner!
my verification email is nowhere to be found
keep me logged in on this computer
I was thrown out in the middle of typing
Why do you need my date of birth to register?
revoke the API key of the old contractor
add a backup phone for login codes
The security question is one I never set up.
Bonjour, I cannot enter my account since the update.
username taken?? that's me!
can't remember if i signed up with google or apple
take my ex off the family account
Who gave Marco permission to edit everything?
how to change login email
guest access for our auditor, two weeks
Login screen is blank on Android 14.
It asks for a PIN I never chose.
please verify me, i uploaded my id card last week
the invite to join the workspace expired
i want my profile hidden from other members
deactivate the accounts of everyone who left in spring
My grandson set this up and I can't get past the first screen.
authentication error 401 after entering the right details
unlock my acct
Make it impossible to sign in without a second factor.
Nickname change
The QR code for the authenticator app won't scan.
""",
    "order_management": """
where's my stuff
order status?
Cancel it, I changed my mind.
I want to see my order status
still waiting, it was meant to come Tuesday
The box was open and the vase inside was in pieces.
you sent me a left shoe and another left shoe
track parcel GB2209117
can i still change the colour of what i bought
Please ship to my mother's house instead.
I'd like three of those lamps, please.
Bought a medium, need a large.
how do returns work
the driver claims nobody was home but I sat here all day
add one more to my order before it ships
Delivery says out for delivery since yesterday morning.
Two weeks and no sign of my bookshelf.
My neighbour got my package. Again.
same again as last month please
i need it before saturday, is that possible
Could you leave the parcel in the garage?
What did I buy from you last Christmas?
cancel everything in my basket
The tracking number isn't recognised by the courier.
return window over? i was on holiday
get me a dozen of the big envelopes
The wrong item came, mine was the green one.
show open orders
Customers should be able to edit an order within an hour.
The app should list all purchases of a user by date.
My sofa is somewhere between Lyon and Dublin, apparently.
express delivery to Vienna how long
put my order on hold until i'm back from vacation
Missing: one table leg.
I clicked buy twice, I only want one
can you combine my two deliveries
why was my order cancelled?
pick up in store possible?
I'd like to return a present without the giver knowing.
The courier wants a door code, where do I enter it?
Not what I ordered. Not even close.
Deliver the second half next month, please.
eta for my package pls
gift wrap the watch
the return label won't print
Repeat purchase of the coffee beans, 4 bags.
Did it go out yet?
My order shows delivered but my porch is empty.
reschedule delivery, i'm away thursday
The customer wants to swap the large shirt for a small one.
What is the latest time to order for next-day delivery?
change flat number to 12b on the parcel
Put two extra chargers on order 7731.
I refuse the delivery, the carton is soaked.
create a purchase order for the office in Oslo
Anything on its way to me right now?
order history
Why does shipping to the islands take three weeks?
please delete the second pillow from my order
Half the order came, the other half is nowhere.
""",
    "payment": """
double charged!!
card declined
I want my money back.
how much do i owe you
invoice for march please
the payment spins forever and then fails
You took the money twice and my rent bounced.
can i pay when it arrives
refund still not here after ten days
Why is there an extra 4.99 on my bill?
promo code SPRING doesnt work
My bank blocked the transaction, what should I do?
Do students pay less?
pay with two cards?
I need a receipt with our VAT number on it.
billing wants a postcode my card doesn't have
charged in dollars, expected pounds
The price went up between the page and the checkout.
Take the old Visa off, it's expired.
is apple pay ok
What was that 60 euro withdrawal on Monday?
need to pay the outstanding balance today
The accountant asks for all bills of last year.
stop taking money from me every month
Payment pending for three days now.
tip added by mistake, please give it back
How do I switch to paying once a year?
i was charged after the free trial ended
Refund the customer in full.
The system should retry a failed charge after one hour.
Let users save a card for next time.
late fee?? I paid on time
Can the invoice be made out to my company?
gift card balance shows 0 but i never used it
my iban changed
Where do I see what I paid last year?
it says insufficient funds, but there's plenty
wire transfer details please
PayPal sent me back to your site with an error.
How long does a refund take to reach my bank?
I was promised ten percent off and got nothing.
the amount is wrong by a cent
Charge the deposit now and the rest in June.
is the tax included
i don't recognise this transaction
Please accept American Express.
the CVV field won't take four digits
put it on my tab and i'll settle at the end of the month
Installments: 3 or 6 months?
my payslip says friday, can the due date wait
Overpaid by 15, please return it.
What's the cheapest plan?
bill me, not my husband
Checkout crashes on the card page.
A chargeback was opened for 230 dollars, look into it.
The exchange rate on my statement is a joke.
Total due?
credit note for invoice 1182 pls
you owe me 20 quid
Direct debit bounced, how can I pay instead?
""",
    "inventory": """
any left?
out of stock again, seriously
it says zero left but I need ten
Do you still carry the walnut table?
how many do we have on the shelf
when will size 38 be back
warehouse count is off by twelve
Is the red one available in Hamburg?
the last two chairs are gone
we need more paper cups before the weekend rush
Show me all products below the minimum.
The system says five but I can only find three.
restock pls, shelf 4
Which branch has the blue backpack?
stock level sku 4471
Will you ever get the vintage lamp again?
shelves are empty here
move twenty crates from the cellar to the shop
Too much of everything except what sells.
Every item needs a threshold at which it is reordered.
Do a full count of the back room tonight.
are you expecting new bikes this month
the big pan is marked unavailable, for how long?
got any more of those wool socks
Where in the warehouse are the spare filters kept?
I counted 48 boxes, the list says 60.
Expired goods should be taken out of the stock figures.
sold the last one a minute ago, set it to zero
how much flour is left
Is there a black one in the back?
Put the twelve returned lamps back on the stock list.
show slow movers
inventory report for the north depot
We can't find pallet 19 anywhere.
Only display what is actually available.
The shop in Porto has none, does Lisbon?
what do we run out of first
Are replacement blades a thing you keep in store?
zero units in Berlin, forty in Munich, please even that out
The supplier delivered 300, book them in.
sold out in every colour except beige
How soon do the garden chairs return to the shop?
barcode scanner added the same carton twice, count is too high
size chart says XL exists but I can only pick S and M
the stocktake is due on Sunday
Are there still tickets available for Saturday?
quantity on hand of part 88-B
nothing in the storeroom but dust
Please hold the last mirror for me until five.
The fridge stock must be counted twice a day.
do u have it in green
Availability of the grey sofa near me?
Which products have not moved for a year?
Damaged in the flood: 14 rolls of carpet, take them off the books.
Is this model coming back or gone forever?
The pharmacy is short of masks.
units left of the starter kit?
We have enough screws for a decade.
Warn-level for milk should be twenty litres, set that.
missing from the shelf: everything with almonds
""",
    "notification": """
too many emails!!
stop spamming me
remind me tomorrow at 8
no alerts on my phone since the update
I want a text, not an email.
Please let everyone know the office is closed.
turn off sounds at night
unsubscribe
Why did I get the same message four times?
push doesnt work
The reminder came a day late.
send the newsletter to my other address too
Tell the team in Rome by mail.
I signed up for your updates but nothing ever came.
mute for an hour
Your texts arrive in Spanish. I don't speak Spanish.
can I get a weekly summary instead
badge on the app icon won't go away
Broadcast a message to all drivers.
Ping me at noon.
The mail landed in spam.
opt me out of sms
email Clara the minutes
How do I choose which alerts I get?
Users must be able to unsubscribe with one click.
Send a happy birthday message to every member.
vibrate only, no sound
I missed the meeting because your reminder never popped up.
Nobody reads the emails, use text messages.
alert me five minutes earlier
The unsubscribe link is broken.
What time does the daily digest go out?
resend it, i deleted the message by accident
Alerts off while I'm driving.
notify nobody about this
give me a shout when the meeting starts
Add my assistant to the mailing list.
only urgent alerts please
three reminders a day is two too many
The push message shows code instead of words.
put me on the waiting list for news about the app
Announce the maintenance window to all users.
Did my message to the group go out?
i keep getting someone else's texts
Don't email me on weekends.
A banner covers the screen every time you have news.
remind grandma to take her pills at nine
hourly updates are overkill
my watch doesn't show your alerts
Greet new members with a short email.
nudge Pavel, he hasn't answered
switch the language of your messages to French
subscribe me to product news
when I tap the alert nothing opens
The reminder should repeat until someone confirms it.
sms to 0171 555 not arriving
notifications pls on
message all volunteers about the new meeting point
Your emails have no plain text version.
I'd like a quiet hour from ten to seven for everything you send.
""",
    "none": """
how do I cook an order of fries
what's the stock of a rifle called
remember to pay attention in class
what's the weather like today
tell me a joke
who won the world cup in 1998
my cat ignores me
What is the capital of Australia?
sing me a song
how far is the moon
thank you so much!
good morning
are you a robot?
nice one
What does "notify" mean in German?
In what order should I read the Narnia books?
law and order is my favourite series
is chicken stock better than vegetable stock
what is the password in Ali Baba's story
who invented the credit card
The stock market makes no sense to me.
how do bees communicate
Write me a poem about autumn.
what's 17 times 23
It pays to be kind, my mother says.
alert dogs make good guards, don't they
Do penguins have knees?
recommend a film for tonight
I can't sleep lately.
how to tie a bow tie
when is easter next year
lol ok then
never mind
Explain gravity to a child.
the log in the fireplace won't burn
how do i log a tree safely
is there life on mars
What key is Happy Birthday in?
mail carriers in the Wild West, were they armed
my knee hurts when it rains
Which language is hardest to learn?
what a lovely day
do you dream
tallest building in asia?
How do I get red wine out of a carpet?
Alphabetical order or by colour, how do you sort books?
order in the court! where does that come from
the delivery of her speech was perfect
why do people account for taste
On what account did they go to war in 1812?
what rhymes with orange
can dogs eat grapes
I'm bored
Summarise Hamlet in one sentence.
convert 5 miles to km
best stretches for a stiff neck
who pays the ferryman in greek myths
what's the charge of an electron
charge your phone overnight, good or bad?
a cavalry charge in the snow, which battle was that
Bill Gates, how old is he?
The duck's bill is orange.
take stock of your blessings, said the priest
stock photos always look fake
is a warehouse party still a thing
the alarm clock was invented by whom
Is texting killing grammar?
remind yourself that you are enough, nice quote
an unsigned painting, is it worth less
What's a good identity for a spy novel hero?
access to the sea: which countries lack it
the dress code for a wedding in June
morse code for SOS
dna code explained simply
my grandfather was a postman
receipt or recipe, I always mix up these words
the price of fame, who wrote that
is it rude to return a smile late
return of the jedi, when was it made
bank of the river or bank for money, funny language
Any tips for a first marathon?
how many planets are there
ok cool
you're funny
What should I name my boat?
""",
}

# Small talk and questions with a slot: labelled none.
NONE_PATTERNS = """
what's the weather like in {city} on {day}
how old is {celebrity}
tell me a fun fact about {animal}
can {animal} swim
how do you say {word} in {language}
what's the best way to cook {food}
who was {celebrity} married to
recommend a book about {animal}
is {food} healthy
what time is it in {city}
how many people live in {city}
why do {animal} sleep so much
what does {word} mean
write a haiku about {food}
is {city} worth a visit in {month}
does {celebrity} speak {language}
translate {word} into {language}
how long does it take to learn {language}
what goes well with {food}
a good joke about {animal} please
how hot does it get in {city} in {month}
which film with {celebrity} should i watch
do {animal} lay eggs
how many calories are in {food}
is it hard to keep {animal} at home
what's the history of {city}
spell {word} for me
when did {celebrity} become famous
are {animal} dangerous
is {language} spoken in {city}
what's on tv on {day}
i love {food} so much
i dreamt of {animal} last night
what's a synonym for {word}
how far is it from {city} to {place2}
my {relative} makes the best {food}
teach me a few words of {language}
what sound do {animal} make
play something by {celebrity}
is {day} a holiday in {city}
my {relative} is afraid of {animal}
did {celebrity} ever live in {city}
fun things to do in {city} with my {relative}
should i put {food} in the fridge
the ending of that film with {celebrity} confused me
draw me a picture of {animal}
what should i wear in {city} in {month}
which wine suits {food}
do people in {city} eat {food}
can you count to ten in {language}
my {relative} says hi
what is {word} the opposite of
guess what, i saw {animal} in {city}
is it true that {animal} never forget
how was your {day}
what year was {celebrity} born
what's the plural of {word}
why is {food} so popular in {city}
best museum in {city}
my {relative} turns fifty in {month}, ideas for a speech?
"""

OPENINGS_DO = """
{}
{}
{}
{} please
please {}
can you {}
could you {}
i need to {}
i want to {}
how do i {}
how can i {}
where do i {}
is there a way to {}
help me {}
trying to {}
would like to {}
{}, thanks
{} asap
let me {}
pls {}
hi, can i {}
hello, how do i {}
not sure how to {}
what's the fastest way to {}
{} if possible
would you mind helping me {}
any chance to {} today
i've been trying to {} for an hour
is it possible to {}
my boss wants me to {}
hey, {}
we have to {}
quick one: {}
time to {}
{} for me
am i allowed to {}
the app won't let me {}
i can't find where to {}
{}, it's urgent
the user wants to {}
next step: {}
"""

OPENINGS_SAY = """
{}
{}
{}
{}
{}
hi, {}
hello, {}
hey, {}
help, {}
sorry, but {}
excuse me, {}
quick question: {}
ugh, {}
{}, any idea?
{}, please help
{}, thanks
um, {}
good morning, {}
dear team, {}
one more thing, {}
again: {}
"""

# {a} and {b} are filled by the kind in front of the colon.
PAIRS = """
do do: {a} and {b}
do do: {a}, then {b}
do do: {a} and then {b}
do do: {b} after i {a}
do do: first {a}, after that {b}
do do: i need to {a} and also {b}
do do: can you {a} and {b}
do do: could you {a}, and while you're at it {b}
do do: please {a}. also {b}
do do: {a} + {b}
do do: two things: {a}, and {b}
do do: before i {b} i have to {a}
do do: i want to {a}, {b} too
do do: how do i {a} and where can i {b}
do do: {a}; next, {b}
do do: help me {a}, and {b} as well
do do: {a} & {b} pls
do do: as well as {b}, let me {a}
say do: {a}. please {b}
say do: {a}, so {b}
say do: {a}. can you {b}?
say do: {a}. also, how do i {b}
say do: {a} and i need to {b}
say do: {a}, and how can i {b}
say do: {a}! {b} please
say do: since {a}, just {b}
say do: {a} - could you {b}
ask do: {a}? also, {b}
ask do: {a}? if so, {b}
ask do: {a} and can you {b}
ask do: {a}? i also want to {b}
ask do: {a}, and please {b}
ask do: {a} - and how do i {b}
say say: {a}, and {b}
say say: {a}. also, {b}
say say: {a}. on top of that {b}
say say: {a} and besides {b}
say say: first {a}, now {b}
when do: when {a}, {b}
when do: once {a}, {b}
when do: as soon as {a}, {b}
when do: {b} when {a}
when do: {b} once {a}
when do: {b} as soon as {a}
when do: {b} after {a}
when do: {b} if {a}
when do: if {a}, please {b}
when do: after {a}, i want to {b}
when do: every time {a}, {b}
when do: {b} whenever {a}
"""

TRIPLES = """
do do do: {a}, {b} and {c}
do do do: {a}, {b}, {c}
do do do: first {a}, then {b}, then {c}
do do do: i want to {a}, {b} and {c}
do do do: can you {a}, {b}, and finally {c}
do do do: {a} and {b}, after that {c}
say do do: {a}. please {b} and {c}
say do do: {a}, so {b} and {c}
ask do do: {a}? please {b} and {c}
ask do do: {a}, and can you {b} and {c}
say say do: {a} and {b}. can you {c}
when do do: when {a}, {b} and {c}
when do do: once {a}, {b}, then {c}
when do do: {b} and {c} as soon as {a}
when do do: if {a}, {b} and {c}
when do do: after {a} we should {b} and {c}
"""

QUADS = """
do do do do: {a}, {b}, {c} and {d}
do do do do: 1) {a} 2) {b} 3) {c} 4) {d}
do do do do: first {a}, then {b}, then {c}, and last {d}
when do do do: when {a}, {b}, {c} and {d}
say do do do: {a}. please {b}, {c} and {d}
do do do do: to do today: {a}; {b}; {c}; {d}
"""

# The letters of MULTI: user_auth, order_management, payment, inventory, notification.
MULTI_LETTERS = {"a": "user_auth", "o": "order_management", "p": "payment", "i": "inventory", "n": "notification"}
MULTI = """
aop | log in, check my order and then pay
pn | after payment succeeds, send the customer a text
aop | Once I'm signed in, show my order and process the payment.
ao | can't get in to see where my parcel is
ap | my password changed and so did the card on file, neither by me!
in | tell me by email the moment the tent can be bought again
oi | four stools please, if you have that many
op | sent the coat back weeks ago, where's my money
on | text me the day before it arrives
an | the login alerts go to my old phone, change that
ai | I have no rights to edit the stock list
ip | is it sold out, and if not, how much is it
op | I was billed for an order I cancelled.
pn | a reminder before you charge me would have been nice
on | no shipping email, no parcel, nothing
ao | my order history vanished after I switched accounts
oi | I ordered five but it turns out you only have two
pi | price and availability of the oak desk?
ap | who logged in as me and bought gift cards with my Visa
an | text me if anybody signs in at night
ai | the scanner in the warehouse keeps logging me out mid-count
aon | new password, then track my box, then text my wife when it's due
opn | order's late, I want a refund and an apology by email
oin | back in stock? then order two and message me
ipn | when the stock of mugs is low, mail the buyer with the purchase price
aip | Give Ana a login so she can see the stock and the invoices.
oip | do you have twelve, can I get them Friday and pay by invoice?
aopn | sign up, order, pay, and get a confirmation text, that's all I want to do
oipn | check stock, place the order, charge the card, email the receipt
aoin | let Tom in, have him count the shelf, order what's missing and write to the team
op | exchange the jacket and pay me back the difference
op | paid twice for one parcel
oi | swap it for the blue one if there's any left
on | every driver should get a push when a delivery address changes
pn | Invoice overdue: send the client a gentle email.
ap | signing in with PayPal works but paying with it doesn't
in | weekly mail with everything under ten units
in | push to the floor manager at zero stock
ip | refund the deposit, the tent is never coming back in stock
ai | Only admins should be able to correct warehouse counts.
an | lock the user out and write to them why
ao | guest checkout made me an account I never wanted, and the order isn't in it
aip | login works again, but prices and stock are blank
apn | pay what I owe, then enable fingerprint login, text me when it's done
aon | when a member registers, create a welcome order and greet them by email
oin | the order waits because there's no stock, please tell the customer by text
ap | make Lena the billing admin and put her card in
oi | which of my ordered items are actually in the warehouse
on | ship it and let the customer know
pn | email everyone whose card expires in May
"""

SLOTS = {
    "device": "phone|laptop|tablet|iphone|work computer|new phone|android|ipad",
    "provider": "google|apple|facebook|microsoft|github|our company login",
    "person": "maria|my colleague|the new intern|tom|my wife|our accountant|priya|the night shift|mr lee|lena|my son|"
    "ahmed",
    "number": "4471|#9902|A-118|20731|55-204|#310|88120|1066",
    "count": "two|three|5|six|10|a dozen|20|25|forty|100",
    "item": "blue jacket|desk lamp|coffee machine|red backpack|office chair|winter coat|phone case|toaster|"
    "wool blanket|gaming mouse|garden table|yoga mat|silver watch|kitchen scale|bike helmet|rice cooker|mirror|tent",
    "items": "mugs|t-shirts|batteries|desk lamps|running shoes|printer cartridges|pillows|notebooks|water bottles|"
    "chairs|light bulbs|usb cables|gloves|candles|coffee beans|towels|screws|raincoats",
    "month": "january|february|march|april|june|july|august|september|october|november",
    "day": "monday|tuesday|wednesday|thursday|friday|saturday|sunday",
    "place": "berlin|the leeds branch|madrid|oslo|our lyon shop|chicago|dublin|naples|cape town|the airport store",
    "city": "berlin|madrid|oslo|chicago|dublin|naples|cape town|lyon|sydney|reykjavik",
    "place2": "paris|rome|vienna|tokyo|boston|lima",
    "warehouse": "the main warehouse|the south depot|storeroom 2|the cellar|warehouse b|the back room",
    "card": "visa|credit card|debit card|mastercard|amex|gift card|company card",
    "amount": "$20|49.90|120 euros|$7.50|300 dollars|15 pounds|$1,200|89 euros",
    "topic": "weekly|sales|product|travel|security|job|event|price drop",
    "celebrity": "mozart|marie curie|elvis|madonna|einstein|shakespeare|frida kahlo|messi|charlie chaplin|adele",
    "animal": "cats|elephants|penguins|snakes|owls|hedgehogs|sharks|horses|parrots|bats|turtles|bears",
    "word": "serendipity|butterfly|hello|patience|window|freedom|cheese|curious|thunder|friend",
    "language": "spanish|japanese|italian|swahili|french|polish|turkish|korean|latin",
    "food": "lasagne|salmon|pumpkin soup|rice pudding|sushi|tofu|couscous|cheesecake|ramen|curry|goulash|risotto",
    "relative": "grandmother|brother|aunt|cousin|father|neighbour|niece|uncle",
}

PROPER_SLOTS = ("month", "day", "city", "place2", "celebrity", "language")
PROPER = ("Google", "Apple", "Facebook", "Microsoft", "Github", "Visa", "Mastercard", "Amex", "Maria", "Tom", "Priya")

FILLERS = ("please", "just", "really", "now", "quickly", "maybe", "somehow", "today")
GARBLED_WORDS = ("sdfgh", "qwrtpl", "xcvbn", "hjkl;;kjh", "zxcvb", "dfghjk", "wrtpsd", "mnbvc", "lkjhg", "qwert")
SHORT = ("hi", "?", "ok", "pw", "pls", "a", "...", "no", "!!", "x1", "yes", "hm", "k", "ty", "1", "omg")
UNKNOWN_LABELS = ("shipping", "paymnt", "login", "other", "unknown", "orders", "stock", "TODO", "auth")
